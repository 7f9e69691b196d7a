"""Fingerprint: what the outputs in a store depend on, in a file of its folder, so that another store is refused."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mutual.data import DataModule, data_changes
from mutual.engine.storage import sha256, write_file
from mutual.engine.teacher_store.layout import RecordLayout
from mutual.group import Peer
from mutual.models import cpu_tensors
from mutual.recipe import LOGITS, Data, InputError, Precision, Recipe, Train, format_value

STORE_MARK = ".mutual-store.json"
"""The fingerprint, and the mark of a store: in a folder with other files and without it nothing is written."""
FORMAT = 2
"""2: views are drawn by hashes, and JPEGs are decoded at a fraction of their size."""
_STATISTICS = "statistics"
_SAME_STATISTICS = 1e-3
"""Difference, as a fraction of the standard deviation, that batch sizes, numbers of ranks and devices explain; other images make
a larger one, about 1 / sqrt(2048)."""
_ADDED_FIELDS: dict[str, dict[str, Any]] = {
    "color_jitter": {"p": 1.0},
    "random_erasing": {"mean": None, "std": None, "attempts": 10, "log_ratio": True},
}
"""By transform the fields that it had not in the first stores, with what these were made by."""
_ELSEWHERE = ("mean", "std", "val", "num_val", "test", "num_test", "sampler_weights")
"""Of the data's fingerprint: what says how the peer sees pixels, which `input` does, evaluation images, which are not kept, and how often
images are drawn."""


def fingerprint(recipe: Recipe, peer: Peer, data: DataModule, layout: RecordLayout, precision: Precision) -> dict[str, Any]:
    """Returns what the outputs of `peer` for the training images depend on, as JSON values."""
    spec, store, section = recipe.peers[peer.name], recipe.stores[peer.name], recipe.data
    views = recipe.counted_views
    outputs = {path: list(feature.shape) for path, feature in layout.features.items()}
    if layout.num_classes:
        outputs[LOGITS] = [layout.num_classes]
    about = {
        "format": FORMAT,
        "model": [spec.model, spec.args],
        "weights": sha256(safetensors.torch.save(cpu_tensors(peer.tapped)))[:16],
        "input": asdict(peer.input.model_input),
        "loaded": data.loaded_shape,
        "classes": None if peer.tapped.columns is None else list(peer.tapped.columns.classes),
        "standardize": spec.standardize,
        "transforms": transforms_of(section),
        "views": store.views,
        "view": list(recipe.peers).index(peer.name) if section.views == "per_peer" else 0,
        "seed": recipe.seed if views is None else views[1],
        "precision": spec.precision or precision,
        "topk": "all" if layout.is_whole else layout.topk,
        "outputs": outputs,
        "data": {key: value for key, value in data.fingerprint.items() if key not in _ELSEWHERE},
    }
    mean, std = peer.tapped.mean, peer.tapped.std
    if mean is not None and std is not None:  # estimated over images that another recipe seed draws differently
        about[_STATISTICS] = {"mean": mean.tolist(), "std": std.tolist()}
    if recipe.train.tf32 != Train().tf32:
        about["tf32"] = recipe.train.tf32  # beside the default, which stores of earlier versions do not name
    values: dict[str, Any] = json.loads(json.dumps(about, default=str))
    return values


def transforms_of(data: Data) -> dict[str, Any]:
    """Returns what becomes of an image; fields that later versions have added stand there only where they say something."""
    transforms = [] if data.filled_augment is None else [spec.model_dump(mode="json") for spec in data.filled_augment]
    for transform in transforms:
        for key, default in _ADDED_FIELDS.get(transform["name"], {}).items():
            if transform[key] == default:
                del transform[key]
    about: dict[str, Any] = {"augment": None if data.augment is None else transforms, "mixup": data.mixup, "cutmix": data.cutmix}
    if data.mixup_p is not None or data.cutmix_p is not None:
        about["probabilities"] = data.mix_probabilities
    return about


def open_folder(folder: Path, expected: Mapping[str, Any], data: DataModule) -> None:
    """Makes `folder` the store of these outputs, or checks that it is.

    Raises:
        InputError: it is another store, or holds what is none.
        OSError: it cannot be made or read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder):
        path = folder / STORE_MARK
        if path.exists():
            changes = _changes(_read(path), expected, data)
            if changes:
                raise InputError(f"{folder} keeps other outputs: {changes}; give another folder, or what they were computed with")
        elif any(folder.iterdir()):
            raise InputError(f"{folder} holds files and no store ({STORE_MARK}); give another folder")
        else:
            write_file(path, json.dumps(expected, indent=1).encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_bytes())
        number = saved["format"]
        if not isinstance(saved["data"], dict):
            raise TypeError("data is no mapping")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); bring it back, or give another folder") from error
    if number != FORMAT:
        raise InputError(f"{path} has format {format_value(number)}, this version reads {FORMAT}; give another folder")
    return dict(saved)


def _changes(saved: Mapping[str, Any], expected: Mapping[str, Any], data: DataModule) -> str:
    """Returns in words how two fingerprints differ; empty if they do not."""
    changes = []
    for key, value in expected.items():
        if key == _STATISTICS:
            if not _is_same_scale(saved.get(key), value):
                changes.append("embeddings are standardized by another mean and std there, which depend on the recipe's seed")
        elif key != "data" and saved.get(key) != value:
            changes += _differences(key, saved.get(key), value)
    if saved["data"] != expected["data"]:
        elsewhere = {key: data.fingerprint[key] for key in _ELSEWHERE if key in data.fingerprint}
        with suppress(KeyError, TypeError, AttributeError):  # a file that was changed by hand
            changes.append(data_changes({**saved["data"], **elsewhere}, data.fingerprint, names=("there", "here")))
        changes = [change for change in changes if change] or ["other data"]
    return "; ".join(changes[:3])


def _is_same_scale(saved: Any, value: Mapping[str, list[float]]) -> bool:
    """Returns whether the mean and standard deviation of embeddings agree but for rounding."""
    try:
        saved_mean, saved_std, mean, std = (torch.tensor(each[name]) for each in (saved, value) for name in ("mean", "std"))
        close = ((saved_mean - mean).abs() <= _SAME_STATISTICS * std) & ((saved_std - std).abs() <= _SAME_STATISTICS * std)
    except (KeyError, TypeError, ValueError, RuntimeError):  # none was written, or the file was changed by hand
        return False
    return bool(close.all())


def _differences(path: str, saved: Any, value: Any) -> list[str]:
    if isinstance(saved, dict) and isinstance(value, dict):
        keys = [key for key in {**saved, **value} if saved.get(key) != value.get(key)]
        return [change for key in keys for change in _differences(f"{path}.{key}", saved.get(key), value.get(key))]
    return [f"{path} is {format_value(saved)} there and {format_value(value)} here"]


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Context in which no other process opens the folder, where its disk knows locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
