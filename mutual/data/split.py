"""One folder of classes into train/ and val/: `python -m mutual.data.split SOURCE DESTINATION [--val 0.2] [--seed 0] [--copy]`."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mutual.data.splits import IMAGE_SUFFIXES
from mutual.recipe import InputError, derive_seed


def split_folder(source: Path, destination: Path, *, val: float, seed: int = 0, copy: bool = False) -> dict[str, tuple[int, int]]:
    """Makes DESTINATION/train/CLASS and DESTINATION/val/CLASS of SOURCE/CLASS and returns by class how many images went where.

    Of each class the fraction `val`, at least one image, goes to val/, drawn by (seed, class) alone. Files are hard links where the
    disk allows, or copies; the source is left as it is, and the destination appears whole or not at all.

    Raises:
        InputError: there is no such source, a class is too small, or the destination is there already.
    """
    if not 0 < val < 1:
        raise InputError(f"--val {val:g} is no fraction between 0 and 1")
    if destination.exists():
        raise InputError(f"{destination} is there already; give a folder that is not")
    parts = _draw(_images_by_class(source), val, seed)
    beside = destination.with_name(f".unfinished-{destination.name}")
    shutil.rmtree(beside, ignore_errors=True)
    for part, by_class in parts.items():
        for name, files in by_class.items():
            for file in files:
                place = beside / part / name / file.relative_to(source / name)
                place.parent.mkdir(parents=True, exist_ok=True)
                _put(file, place, copy=copy)
    beside.rename(destination)
    return {name: (len(files), len(parts["val"][name])) for name, files in parts["train"].items()}


def _images_by_class(source: Path) -> dict[str, list[Path]]:
    if not source.is_dir():
        raise InputError(f"no folder {source}; it should hold a folder of images for each class")
    classes = {
        folder.name: [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
        for folder in sorted(source.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if not classes:
        raise InputError(f"{source} holds no folder of a class; it should hold {source}/CLASS/*.jpg")
    for name, files in classes.items():
        if len(files) < 2:
            raise InputError(f"{source / name} holds {len(files)} image(s); a class needs one for train and one for val")
    return classes


def _draw(classes: dict[str, list[Path]], val: float, seed: int) -> dict[str, dict[str, list[Path]]]:
    parts: dict[str, dict[str, list[Path]]] = {"train": {}, "val": {}}
    for name, files in classes.items():
        number = min(max(round(len(files) * val), 1), len(files) - 1)
        held_out = set(random.Random(derive_seed(seed, "split", name)).sample(range(len(files)), number))
        parts["train"][name] = [file for index, file in enumerate(files) if index not in held_out]
        parts["val"][name] = [file for index, file in enumerate(files) if index in held_out]
    return parts


def _put(file: Path, place: Path, *, copy: bool) -> None:
    if not copy:
        try:
            os.link(file, place)
        except OSError:  # another disk, or one without hard links
            pass
        else:
            return
    shutil.copy2(file, place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Splits and returns the exit code."""
    parser = argparse.ArgumentParser(prog="mutual.data.split", description="Make train/ and val/ from one folder of classes.")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a folder that holds a folder of images for each class")
    parser.add_argument("destination", metavar="DESTINATION", type=Path, help="the folder to make; data.root of a recipe")
    parser.add_argument("--val", type=float, default=0.2, help="fraction of each class that goes to val/ (the default is 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="which images those are")
    parser.add_argument("--copy", action="store_true", help="copy the files in place of hard links")
    options = parser.parse_args(arguments)
    try:
        counts = split_folder(options.source, options.destination, val=options.val, seed=options.seed, copy=options.copy)
    except InputError as error:
        print(f"mutual: {error}", file=sys.stderr)
        return 2
    train, held_out = (sum(count[part] for count in counts.values()) for part in (0, 1))
    print(f"{options.destination}: {len(counts)} classes, {train} training and {held_out} validation images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
