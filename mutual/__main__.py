"""The command `mutual`: `mutual train RECIPE ...` is `python -m mutual.train RECIPE ...`, and so for every command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from mutual import __version__

COMMANDS = {
    "init": ("mutual.init", "look at images and write a recipe for them"),
    "train": ("mutual.train", "train a group of peers from a recipe"),
    "evaluate": ("mutual.evaluate", "score a run's best weights on its validation, test or training images"),
    "predict": ("mutual.predict", "classify image files with a trained peer"),
    "export": ("mutual.export", "write a trained peer as files to ship"),
    "report": ("mutual.report", "write a run, or a comparison, as one HTML page"),
    "store": ("mutual.store", "compute what frozen peers say ahead of training"),
    "compare": ("mutual.compare", "compare recipes under several seeds, with controls, or runs that exist"),
    "convert": ("mutual.convert", "convert configs and weights of PaddleClas"),
    "doctor": ("mutual.doctor", "look at this machine: versions, devices, disks, ranks, and what to set"),
    "bench": ("mutual.bench", "measure step time and memory of recipes"),
    "data-check": ("mutual.data.check", "find bad images, duplicates and classes that do not match"),
    "data-bench": ("mutual.data.bench", "measure how fast the images of recipes are loaded"),
    "data-split": ("mutual.data.split", "make train/ and val/ from one folder of classes"),
}
"""By name the module of a command, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"mutual {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        return _refuse(name)
    code: int = import_module(COMMANDS[name][0]).main(words[1:], prog=f"mutual {name}")
    return code


def _refuse(name: str) -> int:
    from mutual.commandline import run_command  # the help needs neither
    from mutual.recipe import InputError, did_you_mean, printable

    def fail() -> None:  # as a command does: of several processes one says it
        raise InputError(f"'{printable(name)}' is no command{did_you_mean(name, COMMANDS)}")

    return run_command(fail)


def _help() -> str:
    lines = [f"  {name:11} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mutual COMMAND ...",
            "",
            "Online and mutual learning of image classifiers.",
            "",
            *lines,
            "",
            "`mutual COMMAND --help` says what a command takes; `accelerate launch -m mutual.train RECIPE` trains in several processes.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
