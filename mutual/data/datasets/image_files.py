"""Image files: folders of classes, and lists of paths with labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from mutual.data.datasets.labels import exceeds_images
from mutual.data.datasets.presence import check_list, labelled_folders, split_folders, split_lists, unused_test_folder
from mutual.data.datasets.splits import FileSplit, ReadSplits
from mutual.data.files.listing import IMAGE_SUFFIXES, listed_images
from mutual.data.files.paths import PathArray
from mutual.recipe import MAX_CLASSES, Data, printable


def read_image_folder(spec: Data, _seed: int) -> ReadSplits:
    """Returns the images of folders, in which each class has a folder of its own."""
    root, channels = Path(spec.root or ""), spec.num_channels
    folders, splits, classes = split_folders(spec), {}, {}
    for side, folder in folders.items():
        classes[side] = names = labelled_folders(folder, root)
        paths_by_class = [listed_images(folder / name) for name in names]
        for name, paths in zip(names, paths_by_class, strict=True):
            if not paths:
                raise ValueError(f"{folder / name} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        labels = torch.arange(len(names)).repeat_interleave(torch.tensor([len(paths) for paths in paths_by_class]))
        listed_in = root if folder.is_relative_to(root) else folder
        splits[side] = FileSplit(PathArray.concatenate(paths_by_class), [listed_in] * len(labels), labels, channels)
        if names != classes["train"]:
            different = sorted(set(names) ^ set(classes["train"]))
            both = f"{spec.split_folders['train']} and {spec.split_folders[side]}"
            raise ValueError(f"{root}: {both} do not have the same classes; only in one of them: {', '.join(different[:5])}")
    unused = unused_test_folder(spec)
    notes = () if unused is None else (f"{unused} is there and is not read; data.test: test scores it once, at the end",)
    return ReadSplits(splits["train"], splits.get("val"), tuple(classes["train"]), splits.get("test"), notes)


def read_image_list(spec: Data, _seed: int) -> ReadSplits:
    """Returns the images that lists name, a line `path label` for each."""
    channels, root = spec.num_channels, Path(spec.root or "")
    lists = split_lists(spec)
    splits = {side: _read_list(root, path, channels, spec) for side, path in lists.items()}
    train, held_out_sides = splits["train"], [side for side in splits if side != "train"]
    if spec.multi_label:
        num_classes = train.labels.shape[1]
        for side in held_out_sides:
            if (found := splits[side].labels.shape[1]) != num_classes:
                raise ValueError(f"{lists[side]} has {found} flags a line, {lists['train']} has {num_classes}; the classes differ")
    else:
        num_classes = int(train.labels.max()) + 1
        for side in held_out_sides:
            if (largest := int(splits[side].labels.max())) >= num_classes:
                raise ValueError(
                    f"{lists[side]} has the label {largest}, the largest in {lists['train']} is {num_classes - 1}; the classes differ"
                )
    return ReadSplits(train, splits.get("val"), tuple(map(str, range(num_classes))), splits.get("test"))


def read_unlabelled_files(spec: Data) -> FileSplit:
    """Returns the images of the folder, or of the list, `spec.unlabelled`, whose labels are -1.

    Raises:
        ValueError: there is no such folder or list, or it holds no image.
    """
    path = root = Path(spec.unlabelled or "")
    paths: Sequence[Path]
    if path.is_dir():
        paths = listed_images(path)
    elif path.is_file():
        root = Path(spec.root or "")
        named = [(number, line.split(" ")[0]) for number, line in _lines(path)]
        paths = [_existing(root / name, path, number) for number, name in named]
    else:
        raise ValueError(f"data.unlabelled: {path} is neither a folder nor a list, nor shards as wds/PATH/{{000..127}}.tar")
    if not paths:
        raise ValueError(f"data.unlabelled: {path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return FileSplit(paths, [root] * len(paths), torch.full((len(paths),), -1), spec.num_channels)


def _read_list(root: Path, file: Path, channels: int, spec: Data) -> FileSplit:
    paths: list[Path] = []
    labels: list[list[int]] = []
    form, meaning = (r"[01](,[01])*", "flags such as 0,1,1") if spec.multi_label else (r"[0-9]{1,9}", "a class number")
    largest, largest_line = 0, 1
    for number, line in _lines(file):
        name, _, label = line.rpartition(" ")
        if not name or not re.fullmatch(form, label):
            raise ValueError(f"{file}, line {number}: {line[:80]!r} is not `path label` with {meaning}")
        paths.append(_existing(root / name, file, number))
        flags = [int(flag) for flag in label.split(",")]
        if spec.multi_label and labels and len(flags) != len(labels[0]):
            raise ValueError(f"{file}, line {number}: {len(flags)} flags, the lines before have {len(labels[0])}")
        labels.append(flags)
        largest, largest_line = max((largest, largest_line), (flags[0], number), key=lambda entry: entry[0])
    if not paths:
        raise ValueError(f"{file} names no image")
    if not spec.multi_label:
        _check_largest(largest, f"{file}, line {largest_line}", len(paths), spec, trained=file == Path(spec.train_list or ""))
    flags_NC = torch.tensor(labels)
    return FileSplit(paths, [root] * len(paths), flags_NC.float() if spec.multi_label else flags_NC[:, 0], channels)


def _check_largest(label: int, where: str, num_images: int, spec: Data, *, trained: bool) -> None:
    """Refuses a label that would make a classifier of absurd size, which is a slip of the keyboard."""
    if spec.num_classes is not None and label >= spec.num_classes:
        raise ValueError(f"{where}: label {label} is no class; data.num_classes is {spec.num_classes}, and they are numbered from 0")
    if label >= MAX_CLASSES:
        raise ValueError(f"{where}: label {label} is too large; there may be {MAX_CLASSES:,} classes, numbered from 0")
    if spec.num_classes is None and trained and exceeds_images(label, num_images):
        raise ValueError(f"{where}: label {label} in a list of {num_images:,} images; if there are so many classes, set data.num_classes")


def _lines(file: Path) -> list[tuple[int, str]]:
    """Returns the lines that are not empty, with their numbers from 1 on."""
    check_list(file)
    content = file.read_bytes()
    if b"\0" in content:
        raise ValueError(f"{file} is no text file: it holds zero bytes")
    lines = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")  # names of files need not be UTF-8
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _existing(path: Path, file: Path, number: int) -> Path:
    if not path.is_file():
        raise ValueError(f"{file}, line {number}: no file {printable(path)}")
    return path
