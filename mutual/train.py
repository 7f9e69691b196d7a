"""Train a recipe: `accelerate launch -m mutual.train RECIPE [key.path=value ...] [--resume | --overwrite] [--extend RUN]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from mutual.commandline import print_main, run_command
from mutual.recipe import load_recipe


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.train") -> int:
    """Trains and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Train a group of peers from a recipe.")
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe file, such as recipes/dml_pplcnet.yaml, or a config of PaddleClas")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="fields of the recipe to set otherwise")
    parser.add_argument(
        "-o",
        metavar="Key.path=value",
        action="append",
        default=[],
        help="the same; or Global.epochs=3 of a config of PaddleClas",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="go on from the last good checkpoint, or start where there is none")
    mode.add_argument("--overwrite", action="store_true", help="remove what an earlier run of this name left")
    parser.add_argument(
        "--extend", metavar="RUN", help="go on from the last state of this run, under another name=..., with more epochs or another rate"
    )
    options = parser.parse_intermixed_args(arguments)

    def command() -> None:
        start_time = time.perf_counter()
        extension = [] if options.extend is None else [f"extended_from.run={json.dumps(options.extend)}"]
        recipe = load_recipe(options.recipe, [*options.overrides, *options.o, *extension])
        from mutual.engine import check_inputs

        check_inputs(recipe, into_new_folder=not (options.resume or options.overwrite))
        from mutual.engine import fit  # torch takes seconds to import, a wrong recipe is reported before

        result = fit(recipe, resume=options.resume, overwrite=options.overwrite)
        print_main(f"done in {time.perf_counter() - start_time:.0f} s: the best peer is {result.best_peer!r}, in {result.folder / 'best'}")

    return run_command(command, resumes=True)


if __name__ == "__main__":
    sys.exit(main())
