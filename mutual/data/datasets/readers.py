"""Data sets: by its name or form how each is read, and the splits that a recipe makes of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mutual.data.datasets.built_in import DIGIT_CLASSES, FASHION_CLASSES, cifar_reader, mnist_reader, read_digits, read_fake
from mutual.data.datasets.image_files import read_image_folder, read_image_list, read_unlabelled_files
from mutual.data.datasets.joined import JoinedSplit
from mutual.data.datasets.splits import EncodedSplit, ReadSplits, Split
from mutual.data.datasets.stratified import held_out, small_classes
from mutual.data.files.decoding import WRONG_PATHS
from mutual.recipe import Data, family_of_dataset


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
    found = READERS[spec.family](spec, seed)
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


@_blame_user_paths()
def with_unlabelled(train: Split, spec: Data) -> Split:
    """Returns the training images and behind them those of `spec.unlabelled`, whose labels are -1.

    Raises:
        ValueError: there is no such folder, list or shard, or it holds no image.
        OSError: the disk or the machine failed.
    """
    assert isinstance(train, EncodedSplit), "the recipe's check lets through what is in files alone"
    return JoinedSplit.of(train, _unlabelled(spec))


def _unlabelled(spec: Data) -> EncodedSplit:
    if family_of_dataset(spec.unlabelled or "") == "wds":
        from mutual.data.datasets.shards.reader import read_unlabelled_shards  # most recipes name other images

        return read_unlabelled_shards(spec, spec.unlabelled or "")
    return read_unlabelled_files(spec)


def _own(spec: Data, seed: int) -> ReadSplits:
    from mutual.data.datasets.own.reader import read_own  # most recipes name another data set

    return read_own(spec, seed=seed)


def _shards(spec: Data, _seed: int) -> ReadSplits:
    from mutual.data.datasets.shards.reader import read_shards  # most recipes name another data set

    return read_shards(spec)


def _hub(spec: Data, _seed: int) -> ReadSplits:
    from mutual.data.datasets.hub.source import check_hub

    check_hub(spec)
    from mutual.data.datasets.hub.reader import read_hub  # it needs pyarrow, which is an extra

    return read_hub(spec)


READERS: dict[str, Callable[[Data, int], ReadSplits]] = {
    "digits": read_digits,
    "mnist": mnist_reader("MNIST", DIGIT_CLASSES),
    "fashion_mnist": mnist_reader("FashionMNIST", FASHION_CLASSES),
    "cifar10": cifar_reader("CIFAR10"),
    "cifar100": cifar_reader("CIFAR100"),
    "image_folder": read_image_folder,
    "image_list": read_image_list,
    "fake": read_fake,
    "wds": _shards,
    "hfds": _hub,
    "own": _own,
}
"""Readers of data sets: called with a recipe's `data` section and the recipe's seed."""
