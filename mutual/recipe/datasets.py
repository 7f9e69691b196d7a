"""Data sets by their names: what a recipe must, and may, say of each, and what holds where it does not say otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, WithJsonSchema

from mutual.recipe.errors import did_you_mean
from mutual.recipe.users_code import USERS_NAME, is_users_name


@dataclass(frozen=True)
class DatasetKind:
    """What a recipe must, and may, say of a data set, and what holds where it does not say otherwise.

    Attributes:
        channels: 1 grey, 3 colour.
        image_size: height and width in pixels.
        mean: mean of each channel, of pixel values in 0 .. 1.
        std: standard deviation of each channel.
        needs_root: it is read from the folder `data.root`.
        needs_lists: `data.train_list` and `data.val_list` name its images.
        in_files: its images are files of the user's own.
        any_size: they may have any size, each another.
        multi_label: an image may have several labels.
    """

    channels: Literal[1, 3]
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    needs_root: bool = False
    needs_lists: bool = False
    in_files: bool = False
    any_size: bool = False
    multi_label: bool = False


LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601: what colour images become where grey is wanted
IMAGENET_MEAN, IMAGENET_STD = _IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DATASETS: dict[str, DatasetKind] = {
    "digits": DatasetKind(1, (8, 8), (0.3052,), (0.376,)),
    "mnist": DatasetKind(1, (28, 28), (0.1307,), (0.3081,), needs_root=True),
    "fashion_mnist": DatasetKind(1, (28, 28), (0.2860,), (0.3530,), needs_root=True),
    "cifar10": DatasetKind(3, (32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), needs_root=True),
    "cifar100": DatasetKind(3, (32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), needs_root=True),
    "image_folder": DatasetKind(3, (224, 224), *_IMAGENET, needs_root=True, in_files=True, any_size=True),
    "image_list": DatasetKind(3, (224, 224), *_IMAGENET, needs_root=True, needs_lists=True, in_files=True, any_size=True, multi_label=True),
    "fake": DatasetKind(3, (32, 32), (0.5,), (0.29,), multi_label=True),
}
"""Each data set by its name; `mutual.data.datasets.readers` reads them."""
DATASET_FORMS: dict[str, DatasetKind] = {
    "hfds": DatasetKind(3, (224, 224), *_IMAGENET, in_files=True, any_size=True, multi_label=True),
    "wds": DatasetKind(3, (224, 224), *_IMAGENET, in_files=True, any_size=True, multi_label=True),
    "own": DatasetKind(3, (224, 224), *_IMAGENET, any_size=True, multi_label=True),
}
"""Each form of name that stands for a data set of the user's: `hfds/NAME_OR_FOLDER`, `wds/SHARDS`, and `package.module:name` (own)."""
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
"""What the images of a split are called in texts."""


def _known_dataset(name: str) -> str:
    if family_of_dataset(name) not in DATASETS | DATASET_FORMS:
        raise ValueError(f"is no valid dataset{did_you_mean(name, DATASETS)}")
    return name


def family_of_dataset(name: str) -> str:
    """Returns the key in `DATASETS` or `DATASET_FORMS` of the data set called `name`; the name itself where it is in neither."""
    form, separator, rest = name.partition("/")
    if separator and rest and form in ("hfds", "wds"):
        return form
    return "own" if is_users_name(name) else name


_DATASET_SCHEMA = {"anyOf": [{"enum": list(DATASETS)}, {"type": "string", "pattern": rf"^(hfds|wds)/.+$|{USERS_NAME}"}]}
DatasetName = Annotated[str, AfterValidator(_known_dataset), WithJsonSchema(_DATASET_SCHEMA)]
