"""One folder of classes into train/ and val/: `python -m mutual.data.split SOURCE DESTINATION [--val 0.2] [--seed 0] [--copy]`."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mutual.commandline import print_main, run_command
from mutual.data.files.listing import class_folders, image_files
from mutual.recipe import InputError, derive_seed, printable


def split_folder(source: Path, destination: Path, *, val: float, seed: int = 0, copy: bool = False) -> dict[str, tuple[int, int]]:
    """Makes DESTINATION/train/CLASS and DESTINATION/val/CLASS of SOURCE/CLASS and returns by class how many images went where.

    Of each class the fraction `val`, at least one image, goes to val/, drawn by (seed, class) alone. Files are hard links where the
    disk allows, or copies; the source is left as it is, and the destination appears whole or not at all.

    Raises:
        InputError: there is no such source, a class is too small or holds what is no file, or the destination is there already or lies
            in the source.
        OSError: the disk is full, say; the destination is not there then.
    """
    if not 0 < val < 1:
        raise InputError(f"--val {val:g} is no fraction between 0 and 1")
    if os.path.lexists(destination):
        raise InputError(f"{printable(destination)} is there already; give a folder that is not")
    if destination.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{printable(destination)} lies in {printable(source)}, which is left as it is; give a folder beside it")
    sides = _draw(_images_by_class(source), val, seed)
    temp_path = destination.with_name(f".unfinished-{destination.name}-{os.getpid()}")
    try:
        temp_path.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{printable(temp_path)} is in the way and is not removed, for it may be somebody's; move it") from None
    try:
        _fill(temp_path, source, sides, copy=copy)
        temp_path.rename(destination)
    except BaseException:  # whatever it was, Ctrl-C too: nothing half-made stays
        shutil.rmtree(temp_path, ignore_errors=True)
        raise
    return {name: (len(files), len(sides["val"][name])) for name, files in sides["train"].items()}


def _fill(folder: Path, source: Path, sides: dict[str, dict[str, list[Path]]], *, copy: bool) -> None:
    for side, by_class in sides.items():
        for name, files in by_class.items():
            for file in files:
                target = folder / side / name / file.relative_to(source / name)
                target.parent.mkdir(parents=True, exist_ok=True)
                _put(file, target, copy=copy)


def _images_by_class(source: Path) -> dict[str, list[Path]]:
    if not source.is_dir():
        raise InputError(f"no folder {printable(source)}; it should hold a folder of images for each class")
    classes = {folder.name: image_files(folder) for folder in class_folders(source)}
    if not classes:
        raise InputError(f"{printable(source)} holds no folder of a class; it should hold {printable(source)}/CLASS/*.jpg")
    for name, files in classes.items():
        if len(files) < 2:
            raise InputError(f"{printable(source / name)} holds {len(files)} image(s); a class needs one for train and one for val")
        for file in files:
            if not file.is_file():
                raise InputError(f"{printable(file)} is no file, or a link to nothing; repair it or take it out")
    return classes


def _draw(classes: dict[str, list[Path]], val: float, seed: int) -> dict[str, dict[str, list[Path]]]:
    sides: dict[str, dict[str, list[Path]]] = {"train": {}, "val": {}}
    for name, files in classes.items():
        num_held_out = min(max(round(len(files) * val), 1), len(files) - 1)
        held_out = set(random.Random(derive_seed(seed, "split", name)).sample(range(len(files)), num_held_out))
        sides["train"][name] = [file for index, file in enumerate(files) if index not in held_out]
        sides["val"][name] = [file for index, file in enumerate(files) if index in held_out]
    return sides


def _put(file: Path, target: Path, *, copy: bool) -> None:
    if not copy:
        try:
            os.link(file.resolve(), target)  # of a link what it leads to: a relative one would lead elsewhere from the new place
        except OSError:  # another disk, or one without hard links
            pass
        else:
            return
    shutil.copy2(file, target)


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.data.split") -> int:
    """Splits and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Make train/ and val/ from one folder of classes.")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a folder that holds a folder of images for each class")
    parser.add_argument("destination", metavar="DESTINATION", type=Path, help="the folder to make; data.root of a recipe")
    parser.add_argument("--val", type=float, default=0.2, help="fraction of each class that goes to val/ (the default is 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="which images those are")
    parser.add_argument("--copy", action="store_true", help="copy the files in place of hard links")
    options = parser.parse_args(arguments)

    def command() -> None:
        counts = split_folder(options.source, options.destination, val=options.val, seed=options.seed, copy=options.copy)
        train, held_out = (sum(count[side] for count in counts.values()) for side in (0, 1))
        print_main(f"{printable(options.destination)}: {len(counts)} classes, {train} training and {held_out} validation images")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
