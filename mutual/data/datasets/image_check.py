"""What is wrong with a data set: bad images, duplicates, classes that do not match."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mutual.data.datasets.readers import DatasetSplits, read_splits, with_unlabelled
from mutual.data.datasets.splits import EncodedSplit, FakeSplit, Split
from mutual.data.files.decoding import ImageError
from mutual.data.files.listing import class_folders, hidden_image_files, image_files
from mutual.data.files.reading import Contents, FileContents, examine
from mutual.recipe import Data, InputError, printable

SIDES = ("train", "val", "test")


@dataclass
class Findings:
    """What was found in a data set; all but `hidden` are faults.

    Attributes:
        images: how many images there are.
        bad: the reason by image that cannot be read.
        duplicates: images of val with one of train of equal content.
        test_duplicates: images of test with one of train or val of equal content.
        one_sided: by class that train or val has not, the splits that have it.
        empty: folders of classes without images.
        hidden: files that are named as images and passed over, for their names begin with a dot.
    """

    images: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    test_duplicates: dict[str, str] = field(default_factory=dict)
    one_sided: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many faults there are."""
        return len(self.bad) + len(self.duplicates) + len(self.test_duplicates) + len(self.one_sided) + len(self.empty)

    def with_duplicates(self, digests: Mapping[str, Mapping[str, list[str]]]) -> Findings:
        """Returns it with the images that are in two splits; `digests` are the names of each split's images by what they hold."""
        self.duplicates = _equal(digests["val"], [digests["train"]])
        self.test_duplicates = _equal(digests["test"], [digests["train"], digests["val"]])
        return self

    def lines(self) -> list[str]:
        """Returns a line for each finding, and a summary."""
        lines = [str(ImageError(name, reason)) for name, reason in sorted(self.bad.items())]
        for duplicates in (self.duplicates, self.test_duplicates):
            lines += [f"{printable(image)} has the content of {printable(other)}" for image, other in sorted(duplicates.items())]
        lines += [f"class {printable(name)} is in {side} only" for name, side in sorted(self.one_sided.items())]
        lines += [f"{printable(folder)} holds no image" for folder in self.empty]
        lines += [f"note: {printable(path)} is hidden and passed over" for path in self.hidden]
        counts = f"{len(self.bad)} bad, {len(self.duplicates)} of val that are in train too"
        if self.test_duplicates:
            counts += f", {len(self.test_duplicates)} of test that are in train or val too"
        return [*lines, f"{self.images} images: {counts}; {len(self.one_sided)} classes of one side only, {len(self.empty)} empty"]


class _EachOnce:
    """The images of some splits, those of equal names once.

    Attributes:
        sides: for each image the splits that it is in.
    """

    def __init__(self, splits: Mapping[str, tuple[Contents, int]]) -> None:
        positions: dict[str, int] = {}
        self.sides: list[list[str]] = []
        self._found: list[tuple[Contents, int]] = []
        for side, (contents, num_images) in splits.items():
            for index in range(num_images):
                position = positions.setdefault(contents.name(index), len(positions))  # lists may name a file in both
                if position == len(self._found):
                    self._found.append((contents, index))
                    self.sides.append([])
                if side not in self.sides[position]:
                    self.sides[position].append(side)

    def content(self, index: int) -> bytes:
        """Returns the content of an image's file."""
        contents, within = self._found[index]
        return contents.content(within)

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        contents, within = self._found[index]
        return contents.name(within)


def check(splits: Mapping[str, tuple[Contents, int]], *, workers: int) -> Findings:
    """Reads every image of the splits, contents and their number by name (`train`, `val`, `test`), and returns what was found."""
    images = _EachOnce(splits)
    findings = Findings(images=len(images.sides))
    digests: dict[str, dict[str, list[str]]] = {side: {} for side in (*splits, *SIDES)}
    with tqdm(total=len(images.sides), desc="reading", unit="image", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for each in examine(images, len(images.sides), workers=workers):
            bar.update()
            name = images.name(each.index)
            if each.reason:
                findings.bad[name] = each.reason
            for side in images.sides[each.index] if each.digest else ():
                digests[side].setdefault(each.digest, []).append(name)
    return findings.with_duplicates(digests)


def _equal(images: Mapping[str, list[str]], others: Sequence[Mapping[str, list[str]]]) -> dict[str, str]:
    """Returns by image the first one of `others` with its content; both are given by content."""
    return {
        name: min(same)
        for content, names in images.items()
        for name in names
        if (same := next((o[content] for o in others if content in o), []))
    }


def check_folder(folder: Path, *, workers: int, parts: Mapping[str, str] | None = None) -> Findings:
    """Returns what was found in a folder: one with train/, val/ and test/, or with a folder for each class, or with images.

    Args:
        folder: where the images are.
        workers: processes that read.
        parts: by split the folder in `folder` that holds its classes, where a recipe says so.

    Raises:
        InputError: there is no such folder, or no image is in it.
    """
    if not folder.is_dir():
        raise InputError(f"no folder or recipe {printable(folder)}")
    sides = {
        side: {child.name: image_files(child) for child in class_folders(folder / part)}
        for side, part in (parts or {side: side for side in SIDES}).items()
        if (folder / part).is_dir()
    }
    if parts is None and not sides.get("test"):
        sides.pop("test", None)  # test images without classes, which no split is made of
    if not sides:
        sides = {"": {child.name: image_files(child) for child in class_folders(folder)} or {"": image_files(folder)}}
    if not any(paths for classes in sides.values() for paths in classes.values()):
        raise InputError(f"{printable(folder)} holds no image")
    listed = {side: [path for paths in classes.values() for path in paths] for side, classes in sides.items()}
    findings = check({side: (FileContents(paths), len(paths)) for side, paths in listed.items()}, workers=workers)
    names = parts or {side: side for side in sides}
    findings.empty = [str(folder / names[side] / name) for side, classes in sides.items() for name, paths in classes.items() if not paths]
    if {"train", "val"} <= sides.keys():
        findings.one_sided = _one_sided({side: set(classes) for side, classes in sides.items()})
    findings.hidden = [str(path) for path in hidden_image_files(folder)]
    return findings


def check_data(spec: Data, *, seed: int = 0, workers: int) -> Findings:
    """Returns what was found in the data of a recipe with this `seed`.

    Raises:
        InputError: they cannot be checked: a list is not one, say.
    """
    parts = {"train": spec.train or "train", "val": spec.val or "val", **({} if spec.test is None else {"test": spec.test})}
    folders = {side: part for side, part in parts.items() if isinstance(part, str)}
    if spec.dataset == "image_folder" and spec.unlabelled is None and folders == parts:
        return check_folder(Path(spec.root or ""), workers=workers, parts=folders)
    try:
        splits = read_splits(spec, seed=seed)
        train = splits.train if spec.unlabelled is None else with_unlabelled(splits.train, spec)
    except ValueError as error:
        raise InputError(f"data: {printable(error)}") from error
    by_side = {side: split for side, split in zip(SIDES, (train, splits.val, splits.test), strict=True) if split is not None}
    encoded = {side: (split, len(split.labels)) for side, split in by_side.items() if isinstance(split, EncodedSplit)}
    findings = check(encoded, workers=workers) if encoded else _check_images(by_side)
    findings.one_sided = _one_sided({side: _classes_of(split, splits) for side, split in by_side.items()})
    return findings


def _one_sided(classes: Mapping[str, set[str]]) -> dict[str, str]:
    """Returns by class that train or val has not the splits that have it."""
    missing = set().union(*classes.values()) - (classes["train"] & classes["val"])
    return {name: " and ".join(side for side, names in classes.items() if name in names) for name in missing}


def _classes_of(split: Split, splits: DatasetSplits) -> set[str]:
    labels = split.labels
    present = labels.sum(dim=0).nonzero() if labels.dim() == 2 else labels[labels >= 0].unique()
    return {splits.class_names[label] for label in present.flatten().tolist()}


def _check_images(splits: Mapping[str, Split]) -> Findings:
    """Returns what was found in images that are no files, each of which is read in this process; made-up ones are what they should be."""
    findings = Findings(images=sum(len(split.labels) for split in splits.values()))
    digests: dict[str, dict[str, list[str]]] = {side: {} for side in SIDES}
    for side, split in splits.items():
        for index in range(0 if isinstance(split, FakeSplit) else len(split.labels)):
            try:
                image = split.image(index)
            except ImageError as error:
                findings.bad[error.path] = error.reason
                continue
            digest = hashlib.blake2b(np.asarray(image).tobytes(), digest_size=16).hexdigest()
            digests[side].setdefault(f"{digest} {tuple(image.shape)}", []).append(f"{side} {split.name(index)}")
    return findings.with_duplicates(digests)
