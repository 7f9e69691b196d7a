"""Data sets: the training and validation split of each by its name, with what is known of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from mutual.data.datasets.holding_out import held_out, small_classes
from mutual.data.datasets.idx import read_idx
from mutual.data.datasets.joined import JoinedSplit
from mutual.data.datasets.presence import (
    IDX_IMAGES,
    IDX_LABELS,
    check_list,
    find_idx,
    idx_folders,
    labelled_folders,
    split_folders,
    split_lists,
    unused_test_folder,
)
from mutual.data.datasets.splits import EncodedSplit, FakeSplit, FileSplit, MemorySplit, Split
from mutual.data.files.decoding import WRONG_PATHS
from mutual.data.files.listing import IMAGE_SUFFIXES, image_files, listed_images
from mutual.data.files.paths import PathArray
from mutual.recipe import MAX_CLASSES, Data, derive_seed, family_of_dataset, printable

FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_DIGIT_CLASSES = tuple("0123456789")
MANY_CLASSES = 10_000  # a list that goes beyond, and has fewer than one image for ten classes, must be meant


@dataclass(frozen=True)
class DatasetSplits:
    """The splits of a data set, and the names of its classes; `test`, where there is one, is never used to choose anything.

    `notes` are lines that a user should see.
    """

    train: Split
    val: Split
    class_names: tuple[str, ...]
    test: Split | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadSplits:
    """What a reader finds of a data set: `val` and `test` only where they are splits of their own, and no fraction of `train`."""

    train: Split
    val: Split | None
    class_names: tuple[str, ...]
    test: Split | None = None
    notes: tuple[str, ...] = ()


class NoValidationImagesError(ValueError):
    """A data set has no validation images, and none are to be held out.

    Attributes:
        found: what it has.
    """

    def __init__(self, dataset: str, found: ReadSplits) -> None:
        super().__init__(f"{dataset} has no validation images; set data.val to a fraction of the training images, as 0.1")
        self.found = found


@contextmanager
def _blame_user_paths() -> Iterator[None]:
    """Makes a ValueError of an OSError that a path of the user's is to blame for, and not the disk or the machine."""
    try:
        yield
    except OSError as error:
        if error.errno not in WRONG_PATHS:
            raise
        raise ValueError(f"{error.filename}: {error.strerror}; give another path, or allow this user to read it") from error


@_blame_user_paths()
def read_splits(spec: Data, *, seed: int = 0) -> DatasetSplits:
    """Returns the data set that `spec` names; `seed` is what fractions are held out by where `spec` names none.

    Raises:
        ValueError: it is missing, empty, unreadable, or its splits do not have the same classes; one line says what to do.
        OSError: the disk or the machine failed.
    """
    found = _read_own(spec, seed) if spec.family == "own" else READERS[spec.family](spec)
    if spec.tests_on_official_part:
        found = replace(found, val=None, test=found.val)
    fractions = {name: part for name in ("test", "val") if isinstance(part := getattr(spec, name), float)}
    parts = held_out(found.train, fractions, seed=seed if spec.split_seed is None else spec.split_seed) if fractions else {}
    splits = {name: found.train.select(indices) for name, indices in parts.items()}
    val = splits.get("val", found.val)
    if val is None:
        raise NoValidationImagesError(spec.dataset, found)
    notes = [*found.notes, *(f"data: {line}" for line in small_classes(found.train.labels, parts, found.class_names))]
    return DatasetSplits(splits.get("train", found.train), val, found.class_names, splits.get("test", found.test), tuple(notes))


def _read_own(spec: Data, seed: int) -> ReadSplits:
    from mutual.data.datasets.own import read_own  # most recipes name another data set

    return read_own(spec, seed=seed)


def _digits(spec: Data) -> ReadSplits:
    with files("mutual.data").joinpath("assets/digits.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = torch.from_numpy(arrays["images"])[:, None], torch.from_numpy(arrays["labels"]).long()
    index_in_class = torch.zeros_like(labels)
    for label in range(10):
        members = (labels == label).nonzero().flatten()
        index_in_class[members] = torch.arange(len(members))
    held_out = index_in_class % 5 == 4  # a fixed stratified fifth
    everything = MemorySplit(images, labels)
    train, val = (everything.select(mask.nonzero().flatten()) for mask in (~held_out, held_out))
    return ReadSplits(train, val, _DIGIT_CLASSES)


def _mnist_like(name: str, classes: tuple[str, ...]) -> Callable[[Data], ReadSplits]:
    def read(spec: Data) -> ReadSplits:
        root = Path(spec.root or "")
        folders = idx_folders(root, name)
        if spec.download and not any(find_idx(folder, IDX_IMAGES.format("train")) for folder in folders):
            import torchvision.datasets  # seconds, and rarely needed

            getattr(torchvision.datasets, name)(str(root), download=True)
        splits = []
        for prefix in ("train", "t10k"):
            images = read_idx(folders, IDX_IMAGES.format(prefix), dimensions=3)
            labels = read_idx(folders, IDX_LABELS.format(prefix), dimensions=1)
            if len(images) != len(labels):
                raise ValueError(f"{root}: {len(images)} {prefix} images but {len(labels)} labels")
            if int(labels.max()) >= len(classes):
                raise ValueError(f"{root}: the {prefix} labels go up to {int(labels.max())}, {name} has {len(classes)} classes")
            splits.append(MemorySplit(images[:, None], labels.long()))
        return ReadSplits(splits[0], splits[1], classes)

    return read


def _cifar(name: str) -> Callable[[Data], ReadSplits]:
    def read(spec: Data) -> ReadSplits:
        import torchvision.datasets

        dataset = getattr(torchvision.datasets, name)
        try:
            sets = [dataset(str(spec.root), train=train, download=spec.download) for train in (True, False)]
        except RuntimeError as error:
            raise ValueError(f"{spec.root} holds no whole {name} ({error}); set data.download: true") from error
        splits = [MemorySplit(torch.from_numpy(each.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(each.targets)) for each in sets]
        return ReadSplits(splits[0], splits[1], tuple(sets[0].classes))

    return read


def _image_folder(spec: Data) -> ReadSplits:
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


def _image_list(spec: Data) -> ReadSplits:
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


@_blame_user_paths()
def with_unlabelled(train: Split, spec: Data) -> Split:
    """Returns the training images and behind them those of `spec.unlabelled`, whose labels are -1.

    Raises:
        ValueError: there is no such folder, list or shard, or it holds no image.
        OSError: the disk or the machine failed.
    """
    assert isinstance(train, EncodedSplit), "the recipe's check lets through what is in files alone"
    more = _unlabelled(spec)
    if isinstance(train, FileSplit) and isinstance(more, FileSplit):
        labels = torch.cat([train.labels, more.labels])
        return FileSplit([*train.paths, *more.paths], [*train.roots, *more.roots], labels, train.channels)
    return JoinedSplit.of(train, more)


def _unlabelled(spec: Data) -> EncodedSplit:
    if family_of_dataset(spec.unlabelled or "") == "wds":
        from mutual.data.datasets.shards import read_unlabelled_shards  # it knows this module

        return read_unlabelled_shards(spec, spec.unlabelled or "")
    path = root = Path(spec.unlabelled or "")
    if path.is_dir():
        paths = image_files(path)
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
    if spec.num_classes is None and trained and label >= max(MANY_CLASSES, 10 * num_images):
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


def _fake(spec: Data) -> ReadSplits:
    channels, size = spec.num_channels, spec.height_width
    classes = spec.num_classes or 10

    def split(num_images: int, seed: int) -> FakeSplit:
        generator = torch.Generator().manual_seed(derive_seed(seed, "fake labels"))
        flags = torch.randint(0, 2, (num_images, classes), generator=generator).float()
        labels = flags if spec.multi_label else torch.arange(num_images) % classes
        return FakeSplit(torch.arange(num_images), labels, (channels, *size), seed)

    names = tuple(map(str, range(classes)))
    return ReadSplits(split(spec.num_train, 0), split(spec.num_val, 1), names)


def _shards(spec: Data) -> ReadSplits:
    from mutual.data.datasets.shards import read_shards  # it knows this module

    return read_shards(spec)


def _hub(spec: Data) -> ReadSplits:
    from mutual.data.datasets.hub_source import check_hub  # pyarrow, which reads the tables, is an extra

    check_hub(spec)
    from mutual.data.datasets.hub import read_hub

    return read_hub(spec)


READERS: dict[str, Callable[[Data], ReadSplits]] = {
    "digits": _digits,
    "mnist": _mnist_like("MNIST", _DIGIT_CLASSES),
    "fashion_mnist": _mnist_like("FashionMNIST", FASHION_CLASSES),
    "cifar10": _cifar("CIFAR10"),
    "cifar100": _cifar("CIFAR100"),
    "image_folder": _image_folder,
    "image_list": _image_list,
    "fake": _fake,
    "wds": _shards,
    "hfds": _hub,
}
