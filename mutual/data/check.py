"""Check a data set before it is trained on: `python -m mutual.data.check RECIPE|FOLDER [key.path=value ...] [--workers N] [--json]`.

Exit codes: 0 nothing was found, 1 something was, or it was interrupted, 2 the recipe or the folder cannot be checked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mutual.commandline import print_main, run_command
from mutual.recipe import load_recipe


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes; give 1 or more")
    return int(text)


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.data.check") -> int:
    """Checks and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Find bad images, duplicates and classes that do not match.")
    parser.add_argument("data", metavar="RECIPE|FOLDER", type=Path, help="a recipe file, or a folder of images")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="fields of the recipe to set otherwise")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, help="processes that read (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_intermixed_args(arguments)
    faults = 0

    def command() -> None:
        nonlocal faults
        recipe = None if options.data.is_dir() else load_recipe(options.data, options.overrides)
        from mutual.data.datasets.image_check import (  # torch takes seconds to import; a wrong recipe is reported without it
            check_data,
            check_folder,
        )

        workers = options.workers
        findings = (
            check_folder(options.data, workers=workers) if recipe is None else check_data(recipe.data, seed=recipe.seed, workers=workers)
        )
        faults = findings.faults
        print_main(json.dumps(asdict(findings)) if options.json else "\n".join(findings.lines()))

    return run_command(command) or (1 if faults else 0)


if __name__ == "__main__":
    sys.exit(main())
