"""What is wrong with a data set: bad images, duplicates, classes that do not match."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mutual.data.datasets.own_split import OwnSplit
from mutual.data.datasets.readers import DatasetSplits, read_splits, with_unlabelled
from mutual.data.datasets.splits import FileSplit, MemorySplit, Split
from mutual.data.files.decoding import ImageError
from mutual.data.files.listing import class_folders, hidden_image_files, image_files
from mutual.data.files.reading import examine
from mutual.recipe import Data, InputError, printable

Classes = dict[str, list[Path]]
"""The files of each class."""


@dataclass
class Findings:
    """What was found in a data set; all but `hidden` are faults.

    Attributes:
        images: how many images there are.
        bad: the reason by file that is no image that can be read.
        duplicates: files of val with a file of train of equal content.
        one_sided: by class of one side only, the side.
        empty: folders of classes without images.
        hidden: files that are named as images and passed over, for their names begin with a dot.
    """

    images: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    one_sided: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many faults there are."""
        return len(self.bad) + len(self.duplicates) + len(self.one_sided) + len(self.empty)

    def lines(self) -> list[str]:
        """Returns a line for each finding, and a summary."""
        lines = [str(ImageError(path, reason)) for path, reason in sorted(self.bad.items())]
        lines += [f"{printable(val)} has the content of {printable(train)}" for val, train in sorted(self.duplicates.items())]
        lines += [f"class {printable(name)} is in {side} only" for name, side in sorted(self.one_sided.items())]
        lines += [f"{printable(folder)} holds no image" for folder in self.empty]
        lines += [f"note: {printable(path)} is hidden and passed over" for path in self.hidden]
        counts = f"{len(self.bad)} bad, {len(self.duplicates)} of val that are in train too"
        return [*lines, f"{self.images} images: {counts}; {len(self.one_sided)} classes of one side only, {len(self.empty)} empty"]


def check(sides: dict[str, Classes], *, workers: int) -> Findings:
    """Reads every file of the sides (`train`, `val`, or others) and returns what was found."""
    sides_of: dict[Path, set[str]] = {}
    for side, classes in sides.items():
        for path in (path for paths in classes.values() for path in paths):
            sides_of.setdefault(path, set()).add(side)  # lists may name a file in both
    findings = Findings(images=len(sides_of))
    digests: dict[str, dict[str, list[Path]]] = {side: {} for side in sides}
    with tqdm(total=len(sides_of), desc="reading", unit="image", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for each in examine(list(sides_of), workers=workers):
            bar.update()
            if each.reason:
                findings.bad[str(each.path)] = each.reason
            for side in sides_of[each.path] if each.digest else ():
                digests[side].setdefault(each.digest, []).append(each.path)
    for digest in digests.get("train", {}).keys() & digests.get("val", {}).keys():
        findings.duplicates |= {str(path): str(min(digests["train"][digest])) for path in digests["val"][digest]}
    return findings


def check_folder(folder: Path, *, workers: int) -> Findings:
    """Returns what was found in a folder: one with train/ and val/, or with a folder for each class, or with images.

    Raises:
        InputError: there is no such folder, or no image is in it.
    """
    if not folder.is_dir():
        raise InputError(f"no folder or recipe {printable(folder)}")
    sides = {
        side: {child.name: image_files(child) for child in class_folders(folder / side)}
        for side in ("train", "val")
        if (folder / side).is_dir()
    }
    if not sides:
        sides = {"": {child.name: image_files(child) for child in class_folders(folder)} or {"": image_files(folder)}}
    if not any(paths for classes in sides.values() for paths in classes.values()):
        raise InputError(f"{printable(folder)} holds no image")
    findings = check(sides, workers=workers)
    findings.empty = [str(folder / side / name) for side, classes in sides.items() for name, paths in classes.items() if not paths]
    if len(sides) == 2:
        findings.one_sided = _one_sided(set(sides["train"]), set(sides["val"]))
    findings.hidden = [str(path) for path in hidden_image_files(folder)]
    return findings


def check_data(spec: Data, *, workers: int) -> Findings:
    """Returns what was found in the data of a recipe.

    Raises:
        InputError: they cannot be checked: a list is not one, say.
    """
    if spec.dataset == "image_folder" and spec.unlabelled is None:
        return check_folder(Path(spec.root or ""), workers=workers)
    try:
        splits = read_splits(spec)
        train = splits.train if spec.unlabelled is None else with_unlabelled(splits.train, spec)
    except ValueError as error:
        raise InputError(f"data: {printable(error)}") from error
    if isinstance(train, FileSplit) and isinstance(splits.val, FileSplit):
        findings = check({"train": {"": list(train.paths)}, "val": {"": list(splits.val.paths)}}, workers=workers)
    else:
        findings = Findings(len(splits.train.labels) + len(splits.val.labels), duplicates=_duplicates_in_memory(splits.train, splits.val))
        findings.bad = {path: reason for split in (splits.train, splits.val) for path, reason in _bad_items(split)}
    findings.one_sided = _one_sided(*(_classes_of(split, splits) for split in (splits.train, splits.val)))
    return findings


def _bad_items(split: Split) -> Iterator[tuple[str, str]]:
    """Yields name and reason of each item of a Dataset of the user's own that cannot be read."""
    if isinstance(split, OwnSplit):
        for index in range(len(split.labels)):
            try:
                split.image(index)
            except ImageError as error:
                yield error.path, error.reason


def _one_sided(train: set[str], val: set[str]) -> dict[str, str]:
    return {name: "train" if name in train else "val" for name in train ^ val}


def _classes_of(split: Split, splits: DatasetSplits) -> set[str]:
    labels = split.labels
    present = labels.sum(dim=0).nonzero() if labels.dim() == 2 else labels.unique()
    return {splits.class_names[label] for label in present.flatten().tolist()}


def _duplicates_in_memory(train: Split, val: Split) -> dict[str, str]:
    if not (isinstance(train, MemorySplit) and isinstance(val, MemorySplit)):
        return {}  # made up, each from its number
    known = {np.asarray(image).tobytes(): index for index, image in enumerate(train.images)}
    held_out = ((index, known.get(np.asarray(image).tobytes())) for index, image in enumerate(val.images))
    return {f"val image {index}": f"train image {same}" for index, same in held_out if same is not None}
