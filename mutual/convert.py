"""Convert what PaddleClas uses: `python -m mutual.convert recipe THEIRS.yaml > recipe.yaml`, or `weights IN OUT --model NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mutual.commandline import print_main, run_command
from mutual.recipe import InputError, convert_recipe, converted_text, printable


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.convert") -> int:
    """Converts and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Convert configs and weights of PaddleClas.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="recipe|weights")
    recipe = kinds.add_parser("recipe", help="write a config as a recipe to the standard output")
    recipe.add_argument("config", metavar="THEIRS.yaml", help="a config of PaddleClas for classification")
    recipe.add_argument("-o", metavar="Key.path=value", action="append", default=[], help="an entry of the config to set otherwise")
    recipe.add_argument("--strict", action="store_true", help="an entry that has no counterpart is an error")
    options = parser.parse_args(arguments)

    def command() -> None:
        conversion = convert_recipe(options.config, options.o)
        lines = [f"{printable(options.config)}: {line}" for line in conversion.left_out]
        if options.strict and lines:
            raise InputError("\n".join(lines))
        for line in lines:
            print(line, file=sys.stderr)
        print_main(converted_text(conversion, source=options.config).rstrip("\n"))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
