"""Fingerprint: what a run remembers of its data, so that it notices when it is resumed with others, or started with others on some rank.

It holds the classes' names and order, size, channels and normalisation of the images, and of each split how many images each class has
and a digest: of pixels and labels where the images are in memory, of labels and of the files' paths below `data.root` or `data.unlabelled`
where they are in files, whose contents are not read; of a table's images their sizes and the contents of some; of labels and of the pixels
of 16 images, spread evenly over the split, of Datasets of the user's own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from mutual.data.datasets.info import DataInfo
from mutual.data.datasets.labels import class_counts
from mutual.data.datasets.own.own_split import OwnSplit
from mutual.data.datasets.splits import EncodedSplit, MemorySplit, Split
from mutual.recipe import format_value

WEIGHTS = "sampler_weights"
"""The digest of the weights by which training images are drawn, if there are any."""


def fingerprint(info: DataInfo, splits: Mapping[str, Split], weights: Tensor | None = None) -> dict[str, Any]:
    """Returns the fingerprint as JSON values.

    Args:
        info: what the data set is.
        splits: by name; where there is no test split nothing is said of it, as in earlier versions.
        weights: those by which training images are drawn.
    """
    about = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(info).items() if value is not None}
    digest = {} if weights is None else {WEIGHTS: hashlib.blake2b(weights.numpy().tobytes(), digest_size=16).hexdigest()}
    return {**about, **{name: _of_split(split) for name, split in splits.items()}, **digest}


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any], *, names: tuple[str, str] = ("then", "now")) -> str:
    """Returns in words how two fingerprints differ; `names` say which is which."""
    different = {key: words for key, words in _WORDS.items() if before.get(key) != now.get(key)}
    changes = [_change(words, before.get(key), now.get(key), names) for key, words in different.items()]
    for split in ("train", "val", "test"):
        old, new = before.get(split), now.get(split)
        if old is None or new is None:
            continue  # the number of its images says so
        if old["per_class"] != new["per_class"]:
            changes.append(_change(f"{split} images of each class", old["per_class"], new["per_class"], names))
        elif old["digest"] != new["digest"]:
            changes.append(f"other {split} images or labels, as many of each class")
    if before.get(WEIGHTS) != now.get(WEIGHTS):
        changes.append("other weights of the training images (data.sampler)")
    return "; ".join(changes[:3])


_WORDS = {
    "class_names": "classes",
    "num_classes": "number of classes",
    "num_train": "number of training images",
    "num_val": "number of validation images",
    "num_test": "number of test images",
    "image_size": "image size",
    "channels": "channels",
    "mean": "mean",
    "std": "standard deviation",
    "multi_label": "several labels",
}


def _change(what: str, before: Any, now: Any, names: tuple[str, str]) -> str:
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        differing = [index for index, (old, new) in enumerate(zip(before, now, strict=True)) if old != new]
        what, before, now = f"{what}, number {differing[0]}", before[differing[0]], now[differing[0]]
    return f"{what}: {format_value(before)} {names[0]}, {format_value(now)} {names[1]}"


def _of_split(split: Split) -> dict[str, Any]:
    labels = split.labels
    digest = hashlib.blake2b(labels.numpy().tobytes(), digest_size=16)
    match split:
        case MemorySplit():
            digest.update(split.images.contiguous().numpy().data)
        case EncodedSplit():
            for name in split.portable_names():
                digest.update(os.fsencode(name) + b"\0")
        case OwnSplit():
            digest.update(split.sample())
        case _:
            digest.update(repr(split).encode())
    return {"per_class": class_counts(labels, 0).tolist(), "digest": digest.hexdigest()}
