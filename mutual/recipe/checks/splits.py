"""The checks of `data.train`, `val` and `test`: what each means for a data set, and which of them cannot stand together."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from mutual.recipe.data import Data
from mutual.recipe.errors import Fault

_FRACTION = "give a fraction of the training images, as 0.1"
_NAMED = {
    "image_folder": ("train", "val", "test"),
    "image_list": ("test",),
    "hfds": ("train", "val", "test"),
    "wds": ("val", "test"),
}
"""By data set, or form of its name, the splits that a text in the recipe may name."""
_INSTEAD = {
    ("image_list", "train"): "image_list names its training images in data.train_list",
    ("image_list", "val"): f"image_list names its validation images in data.val_list; or {_FRACTION}",
    ("wds", "train"): "the shards of training images stand in data.dataset",
}


def check_splits(data: Data) -> Iterator[Fault]:
    """Yields what is wrong with the splits that `data` names or holds out."""
    for split in ("train", "val", "test"):
        if isinstance(getattr(data, split), str) and split not in _NAMED.get(data.family, ()):
            yield Fault(f"data.{split}", _INSTEAD.get((data.family, split)) or _own_splits(data, split))
    if data.kind.needs_lists and isinstance(data.val, float) and data.val_list is not None:
        yield Fault("data.val", "data.val_list names the validation images; leave one of the two out")
    if data.family == "image_folder":
        yield from _check_folders(data)
    if data.tests_on_official_part and data.test is not None:
        yield Fault(
            "data.test",
            f"with data.val a fraction, the images that {data.dataset} holds out itself are the test split; leave data.test out",
        )
    elif isinstance(data.val, float) and isinstance(data.test, float) and data.val + data.test >= 1:
        yield Fault("data.test", f"with data.val, {data.val + data.test:.0%} of the training images are held out; leave some to train on")


def _own_splits(data: Data, split: str) -> str:
    if data.family == "own":
        return f"{data.dataset} returns its splits itself; {'take this away' if split == 'train' else 'give a fraction, or nothing'}"
    if split == "train":
        return f"{data.dataset} has training images of its own; leave data.train out"
    return f"{data.dataset} has no splits by name; {_FRACTION}, or leave data.{split} out"


def _check_folders(data: Data) -> Iterator[Fault]:
    if data.val is None and data.train is not None and posixpath.normpath(data.train) == ".":
        yield Fault("data.val", f"the whole of data.root is the training images; {_FRACTION}, or a folder outside of it")
    folders: dict[str, str] = {}
    for split, folder in data.split_folders.items():
        other = folders.setdefault(posixpath.normpath(folder), split)
        if other != split:
            yield Fault(f"data.{split}", f"is the folder of data.{other}; give another one, or {_FRACTION.removeprefix('give ')}")
