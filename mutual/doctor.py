"""Look at this machine: `python -m mutual.doctor`: versions, devices, threads, disks, ranks, and what to set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mutual.commandline import run_command


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.doctor") -> int:
    """Prints the findings and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Look at this machine.")
    parser.parse_args(arguments)
    return run_command(lambda: None)


if __name__ == "__main__":
    sys.exit(main())
