"""Convert what PaddleClas uses: `python -m mutual.convert recipe THEIRS.yaml > recipe.yaml`, or `weights IN OUT --model NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutual.commandline import check_free, print_main, run_command
from mutual.recipe import InputError, YamlError, convert_recipe, converted_text, parse_yaml, printable

_MORE = "`mutual train THEIRS.yaml -o Key.path=value` trains a config without a file in between."
_RECIPE = (
    "Write a config as a recipe to the standard output: mutual convert recipe THEIRS.yaml > recipe.yaml. What has no counterpart is named "
    "on stderr and in the comments at the recipe's head, which also say what is done in another way."
)
_WEIGHTS = (
    "Write weights of PaddleClas as safetensors with a card, or weights that were trained here as PaddleClas reads them: "
    "mutual convert weights IN.pdparams OUT.safetensors --model ResNet50_vd, mutual convert weights RUN OUT.pdparams --model pplcnet_x1_0."
)


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.convert") -> int:
    """Converts and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Convert configs and weights of PaddleClas, without Paddle.", epilog=_MORE)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="recipe|weights")
    recipe = kinds.add_parser("recipe", help="write a config as a recipe to the standard output", description=_RECIPE)
    recipe.add_argument("config", metavar="THEIRS.yaml", help="a config of PaddleClas for classification")
    recipe.add_argument(
        "-o", metavar="Key.path=value", action="append", default=[], help="an entry of the config to set otherwise; may be repeated"
    )
    recipe.add_argument("--strict", action="store_true", help="an entry that has no counterpart is an error")
    weights = kinds.add_parser(
        "weights", help="write a .pdparams as safetensors with a card, or a weights file as .pdparams", description=_WEIGHTS
    )
    weights.add_argument("source", metavar="IN", type=Path, help="a .pdparams; or for the way back, a weights file or a run's folder")
    weights.add_argument("target", metavar="OUT", type=Path, help="a .safetensors; or for the way back, a .pdparams")
    weights.add_argument(
        "--model", metavar="NAME", required=True, help="whose weights they are, by our name or theirs: pplcnet_x1_0, ResNet50_vd"
    )
    weights.add_argument("--num-classes", metavar="N", type=int, help="outputs of the model (the default is what the file has)")
    weights.add_argument(
        "--prefix",
        metavar="PREFIX",
        default="auto",
        help="what stands before the model's names, such as Student. (the default is the one that fits)",
    )
    weights.add_argument("--args", metavar="YAML", default="", help="arguments of the model, as in a recipe: '{class_expand: 512}'")
    weights.add_argument("--overwrite", action="store_true", help="replace OUT")
    options = parser.parse_args(arguments)
    if options.kind == "weights" and options.num_classes is not None and options.num_classes < 1:
        parser.error("--num-classes must be at least 1")
    return run_command(lambda: _convert_recipe(options) if options.kind == "recipe" else _convert_weights(options))


def _convert_recipe(options: argparse.Namespace) -> None:
    conversion = convert_recipe(options.config, options.o)
    lines = [f"{printable(options.config)}: {line}" for line in conversion.left_out]
    if options.strict and lines:
        raise InputError("\n".join(lines))
    for line in lines:
        print(line, file=sys.stderr)
    print_main(converted_text(conversion, source=options.config).rstrip("\n"))


def _convert_weights(options: argparse.Namespace) -> None:
    source, target = options.source, options.target
    check_free(target, overwrite=options.overwrite, option="another name")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {printable(target.parent)}")
    args = _parsed(options.args)
    from mutual.models import converted_weights  # torch takes seconds to import

    content, notes = converted_weights(source, target, options.model, num_classes=options.num_classes, prefix=options.prefix, args=args)
    for note in notes:
        print(printable(note), file=sys.stderr)
    from mutual.engine import write_file

    check_free(target, overwrite=options.overwrite, option="another name")
    write_file(target, content)
    print_main(f"{printable(target)}: {options.model} from {printable(source)}, {len(content) / 1e6:,.1f} MB")


def _parsed(text: str) -> dict[str, Any] | None:
    """Returns the arguments of a model, read as a recipe's are; None where none are given."""
    if not text:
        return None
    try:
        args = parse_yaml(text)
    except YamlError as error:
        raise InputError(f"--args: {error}; give a mapping, such as '{{class_expand: 512}}'") from error
    if not isinstance(args, dict) or not all(isinstance(key, str) for key in args):
        raise InputError(f"--args: {printable(text, max_length=100)!r} is no mapping; give one, such as '{{class_expand: 512}}'")
    return args


if __name__ == "__main__":
    sys.exit(main())
