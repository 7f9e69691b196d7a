"""Write a recipe for your images: `python -m mutual.init FOLDER|hfds/NAME|wds/SHARDS [--teacher MODEL] [--student MODEL]`."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mutual.commandline import check_free, print_main, run_command
from mutual.recipe import InputError, printable

if TYPE_CHECKING:
    from mutual.data import Survey

_MOST_NAMED = 5


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.init") -> int:
    """Writes a recipe and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Look at images and write a recipe that trains peers on them.")
    parser.add_argument("data", metavar="FOLDER|hfds/NAME|wds/SHARDS", help="a folder of classes, or one with train/; or a data set")
    parser.add_argument("--teacher", metavar="MODEL", help="distil from it: a run's folder, or torchvision/, timm/ or paddleclas/NAME")
    parser.add_argument("--student", metavar="MODEL", help="the model to ship (the default is a PP-LCNet)")
    parser.add_argument("--output", metavar="FILE.yaml", type=Path, help="the recipe (the default is NAME.yaml, by the data's name)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file of that name")
    parser.add_argument("--sample", metavar="N", type=int, default=1_000, help="images to read (the default is 1000)")
    options = parser.parse_args(arguments)
    if options.sample < 1:
        parser.error("--sample must be at least 1")

    def command() -> None:
        output = options.output or Path(f"{_name_of(options.data)}.yaml")
        check_free(output, overwrite=options.overwrite, option="another --output")
        if not output.parent.is_dir():
            raise InputError(f"--output: there is no folder {printable(output.parent)}")
        from mutual.data import survey_images  # torch takes seconds to import

        found = survey_images(options.data, sample=options.sample, workers=os.cpu_count() or 1)
        for line in _described(options.data, found):
            print_main(line)
        from mutual.engine import draft_recipe

        draft = draft_recipe(found, file=output, student=options.student, teacher=options.teacher)
        write_recipe(output, draft.text, overwrite=options.overwrite)
        peers = " and ".join(dict.fromkeys(peer.model for peer in draft.recipe.peers.values()))
        data, train = draft.recipe.data, draft.recipe.train
        height, width = data.height_width
        print_main(
            f"{printable(output)}: {peers} at {width} x {height} pixels, {data.batch_size} images a batch "
            f"({draft.memory_bytes / 1e9:.2g} GB), {train.epochs} epochs of about {draft.epoch_seconds:,.0f} s here, loading left out"
        )
        print_main(f"next: accelerate launch -m mutual.train {shlex.quote(printable(output))}")

    return run_command(command)


def _name_of(dataset: str) -> str:
    """Returns what a recipe for `dataset` is called: its folder, table or function, or the folder of its shards."""
    path = Path(dataset)
    if not path.exists():
        path = Path(re.sub(r"^(hfds|wds)/", "", dataset))
        path = path.parent if dataset.startswith("wds/") and path.parent.name else path
    name = re.split(r"[@:]|\.(?:parquet|arrow|tar)$", path.resolve().name)[0]
    return re.sub(r"[^\w.-]+", "_", name).strip("_.-") or "mine"


def write_recipe(output: Path, text: str, *, overwrite: bool) -> None:
    """Writes a recipe, whole or not at all.

    Raises:
        InputError: something is there by now, as measuring takes a while, and is not to be replaced.
    """
    from mutual.engine import write_file

    check_free(output, overwrite=overwrite, option="another --output")
    write_file(output, text.encode())


def _described(data: str, found: Survey) -> list[str]:
    """Returns lines on what was found."""
    sizes = sorted(found.class_sizes.items(), key=lambda entry: entry[1])
    height, width = found.image_size
    counts = ", ".join(f"{number:,} {split}" for split, number in found.num_images.items())
    colour = "grey" if found.channels == 1 else "colour"
    lines = [
        f"{printable(data)}: {len(sizes):,} classes; {counts} images, {colour}, mostly about {width} x {height} pixels "
        f"({found.num_read:,} were read)",
        f"training images of a class: {sizes[0][1]:,} ({printable(sizes[0][0])}) to {sizes[-1][1]:,} ({printable(sizes[-1][0])})",
    ]
    lines += [f"cannot be read: {printable(name)}: {printable(reason)}" for name, reason in sorted(found.bad.items())[:_MOST_NAMED]]
    if len(found.bad) > _MOST_NAMED:
        lines.append(f"and {len(found.bad) - _MOST_NAMED:,} more; `python -m mutual.data.check` names all")
    return lines


if __name__ == "__main__":
    sys.exit(main())
