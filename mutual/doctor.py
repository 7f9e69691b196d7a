"""Look at this machine: `python -m mutual.doctor [--output FOLDER] [--json]`: versions, devices, threads, disks, ranks, and what to set.

`accelerate launch -m mutual.doctor` and `torchrun --nproc_per_node 2 -m mutual.doctor` look at what they start. What is printed is made
to be pasted: it names neither the user nor the machine.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mutual import __version__
from mutual.commandline import run_command
from mutual.recipe import RunError, printable

_MORE = (
    "Started as a training is, `accelerate launch -m mutual.doctor`, it also says whether the processes see each other. "
    "It trains nothing and leaves no file. Exit code 1 and a line on stderr: something is broken."
)


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.doctor") -> int:
    """Prints the findings and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Look at versions, devices, threads, disk and ranks, and say what to set.", epilog=_MORE
    )
    output = "where runs are written, whose disk is measured (the default is runs)"
    parser.add_argument("--output", metavar="FOLDER", type=Path, default=Path("runs"), help=output)
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=30.0, help="how long to wait for other processes (the default is 30)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    def command() -> None:
        from mutual.engine import diagnose, diagnosis_text, json_text

        with _interrupted_by_sigterm():
            result = diagnose(options.output, version=__version__, timeout=options.timeout)
        if result.diagnosis is not None:  # of several processes the first that has come, which need not be rank 0
            print(json_text(result.diagnosis.document()) if options.json else diagnosis_text(result.diagnosis), flush=True)
        if result.broken is not None:
            raise RunError(result.broken) if result.is_joined else ConnectionError(result.broken)

    return run_command(command)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Context in which SIGTERM is as Ctrl-C, so that no file is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def seconds(text: str) -> float:
    """Returns a number of seconds, 0.1 to 100,000.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    with suppress(ValueError):
        if 0.1 <= (value := float(text)) <= 1e5:
            return value
    raise argparse.ArgumentTypeError(f"{printable(text, max_length=100)!r} is no number of seconds from 0.1 to 100000")


if __name__ == "__main__":
    sys.exit(main())
