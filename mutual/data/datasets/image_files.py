"""Image files: folders of classes, and lists of paths with labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mutual.data.datasets.class_names import read_class_names
from mutual.data.datasets.labels import exceeds_images
from mutual.data.datasets.list_files import lines_of
from mutual.data.datasets.presence import labelled_folders, split_folders, split_lists, unused_test_folder
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
    root = Path(spec.root or "")
    lists = split_lists(spec)
    roots = {"val": root if spec.val_root is None else Path(spec.val_root)}
    splits = {side: _read_list(roots.get(side, root), path, spec) for side, path in lists.items()}
    if spec.relabel:
        splits, names = _relabelled(splits, lists)
        names += tuple(f"unused {number}" for number in range(len(names), spec.num_classes or 0))  # a number may be another class's name
        return ReadSplits(splits["train"], splits.get("val"), names, splits.get("test"))
    names = () if spec.class_names is None else read_class_names(spec.class_names)
    num_classes = _num_classes(splits, lists, spec, names)
    names = (*names, *map(str, range(len(names), num_classes)))
    return ReadSplits(splits["train"], splits.get("val"), names, splits.get("test"))


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
        root = Path(spec.root or "") if spec.unlabelled_root is None else Path(spec.unlabelled_root)
        delimiter = r"[ \t]" if spec.delimiter is None else re.escape(spec.delimiter)
        named = [(number, re.split(delimiter, line, maxsplit=1)[0]) for number, line in lines_of(path)]
        paths = [_existing(root / name, path, number) for number, name in named]
    else:
        raise ValueError(f"data.unlabelled: {path} is neither a folder nor a list, nor shards as wds/PATH/{{000..127}}.tar")
    if not paths:
        raise ValueError(f"data.unlabelled: {path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return FileSplit(paths, [root] * len(paths), torch.full((len(paths),), -1), spec.num_channels)


def _divided(line: str, delimiter: str | None) -> tuple[str, str]:
    """Returns what stands before and behind the last delimiter of a line; both empty where it has none."""
    last = max((" ", "\t") if delimiter is None else (delimiter,), key=line.rfind)
    name, between, label = line.rpartition(last)
    return (name, label.lstrip(" \t")) if between else ("", "")


def _read_list(root: Path, file: Path, spec: Data) -> FileSplit:
    paths: list[Path] = []
    labels: list[list[int]] = []
    label_form, meaning = (r"[01](?:,[01])*", "flags such as 0,1,1") if spec.multi_label else (r"[0-9]{1,9}", "a class number")
    largest, largest_line = 0, 1
    for number, line in lines_of(file):
        name, label = _divided(line, spec.delimiter)
        if not name or not re.fullmatch(label_form, label):
            delimiter = "" if spec.delimiter is None else f", {spec.delimiter!r} between them"
            raise ValueError(f"{file}, line {number}: {line[:80]!r} is not `path label` with {meaning}{delimiter}")
        paths.append(_existing(root / name, file, number))
        flags = [int(flag) for flag in label.split(",")]
        if spec.multi_label and labels and len(flags) != len(labels[0]):
            raise ValueError(f"{file}, line {number}: {len(flags)} flags, the lines before have {len(labels[0])}")
        labels.append(flags)
        largest, largest_line = max((largest, largest_line), (flags[0], number), key=lambda entry: entry[0])
    if not paths:
        raise ValueError(f"{file} names no image")
    if not spec.multi_label and not spec.relabel:
        _check_largest(largest, f"{file}, line {largest_line}", len(paths), spec, trained=file == Path(spec.train_list or ""))
    flags_NC = torch.tensor(labels)
    return FileSplit(paths, [root] * len(paths), flags_NC.float() if spec.multi_label else flags_NC[:, 0], spec.num_channels)


def _num_classes(splits: Mapping[str, FileSplit], lists: Mapping[str, Path], spec: Data, names: Sequence[str]) -> int:
    """Returns how many classes lists name, whose labels `_read_list` has checked each by itself."""
    train, held_out_sides = splits["train"], [side for side in splits if side != "train"]
    if spec.multi_label:
        num_classes = train.labels.shape[1]
        for side in held_out_sides:
            if (found := splits[side].labels.shape[1]) != num_classes:
                raise ValueError(f"{lists[side]} has {found} flags a line, {lists['train']} has {num_classes}; the classes differ")
    else:
        num_classes = int(train.labels.max()) + 1
        known = max(num_classes, len(names), spec.num_classes or 0)  # there need be no training image of each class
        for side in held_out_sides:
            if (largest := int(splits[side].labels.max())) >= known:
                raise ValueError(
                    f"{lists[side]} has the label {largest}, the largest in {lists['train']} is {num_classes - 1}; the classes differ"
                )
    if names and len(names) < num_classes:
        raise ValueError(f"{spec.class_names} names {len(names):,} classes, {lists['train']} has {num_classes:,}")
    return num_classes


def _relabelled(splits: Mapping[str, FileSplit], lists: Mapping[str, Path]) -> tuple[dict[str, FileSplit], tuple[str, ...]]:
    """Returns the splits with classes numbered in the order of the training images' labels, and these labels as names."""
    classes = splits["train"].labels.unique()
    found = {}
    for side, split in splits.items():
        is_unknown = ~torch.isin(split.labels, classes)
        if is_unknown.any():
            label = int(split.labels[is_unknown][0])
            raise ValueError(f"{lists[side]} has the label {label}, which no image in {lists['train']} has; the classes differ")
        found[side] = split.labelled(torch.searchsorted(classes, split.labels))
    return found, tuple(map(str, classes.tolist()))


def _check_largest(label: int, where: str, num_images: int, spec: Data, *, trained: bool) -> None:
    """Refuses a label that would make a classifier of absurd size, which is a slip of the keyboard."""
    if spec.num_classes is not None and label >= spec.num_classes:
        raise ValueError(f"{where}: label {label} is no class; data.num_classes is {spec.num_classes}, and they are numbered from 0")
    if label >= MAX_CLASSES:
        raise ValueError(f"{where}: label {label} is too large; there may be {MAX_CLASSES:,} classes, numbered from 0")
    if spec.num_classes is None and trained and exceeds_images(label, num_images):
        raise ValueError(f"{where}: label {label} in a list of {num_images:,} images; if there are so many classes, set data.num_classes")


def _existing(path: Path, file: Path, number: int) -> Path:
    if not path.is_file():
        raise ValueError(f"{file}, line {number}: no file {printable(path)}")
    return path
