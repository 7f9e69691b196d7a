"""Data sets of the user's own: what `package.module:name` returns, as splits."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor
from torch.utils.data import IterableDataset, Subset
from tqdm import tqdm

from mutual.data.datasets.own.labels import declared_labels, parse_label, stack_labels
from mutual.data.datasets.own.own_split import Items, LabelError, OwnSplit, spread
from mutual.data.datasets.splits import ReadSplits
from mutual.data.files.decoding import ImageError
from mutual.data.seeding import seeded_generators
from mutual.recipe import Data, call_users, derive_seed, describe_error, did_you_mean, import_users, names_parameter

_SPLITS = ("train", "val", "test")
_NUM_COMPARED = 8
"""So many items, spread evenly over a split, are compared with the labels that the Dataset declares."""
_SHAPES = "return Datasets as (train, val) or (train, val, test), as a mapping or as an object with train, val and perhaps test and classes"


def read_own(spec: Data, *, seed: int) -> ReadSplits:
    """Returns the splits that the function of `spec.dataset` makes, with the labels of all images.

    Raises:
        ValueError: it fails, or does not return map-style Datasets of (image, label).
        OSError: the disk or the machine failed.
    """
    name = spec.dataset
    function = import_users(name, kind="dataset")
    offered = {
        "root": spec.root,
        "seed": seed,
        "image_size": spec.height_width,
        "channels": spec.num_channels,
        "num_classes": spec.num_classes,
        "multi_label": spec.multi_label,
        "download": spec.download,
    }
    named = {key: value for key, value in offered.items() if value is not None and names_parameter(function, key)}
    with seeded_generators(derive_seed(seed, "dataset")):
        made = call_users(name, function, **{**named, **spec.args})
    found, names = _unpack(name, made)
    if found["train"] is None:
        raise ValueError(f"{name} returns no training images; {_SHAPES}")
    for key in ("val", "test"):
        if found[key] is not None and isinstance(getattr(spec, key), float):
            raise ValueError(f"{name} returns {key} images, and data.{key} is a fraction of the training images; take one of the two away")
    splits = {key: _split(dataset, key, function, spec) for key, dataset in found.items() if dataset is not None}
    if names is None:
        names = _class_names(name, _classes_of(found["train"]))
    classes = _check_classes(name, splits, names)
    return ReadSplits(splits["train"], splits.get("val"), classes, splits.get("test"))


def _unpack(name: str, made: Any) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Returns the Dataset of each split, or None, and the names of the classes, or None."""
    if isinstance(made, Mapping):
        for key in made:
            if key not in (*_SPLITS, "classes"):
                raise ValueError(f"{name} returns a mapping with {key!r}{did_you_mean(str(key), (*_SPLITS, 'classes'))}")
        return {key: made.get(key) for key in _SPLITS}, _class_names(name, made.get("classes"))
    if isinstance(made, tuple | list) and not hasattr(made, "_fields"):
        if not 1 <= len(made) <= len(_SPLITS):
            raise ValueError(f"{name} returns {len(made)} values; {_SHAPES}")
        return dict.fromkeys(_SPLITS) | dict(zip(_SPLITS, made, strict=False)), None
    if hasattr(made, "__getitem__") and not hasattr(made, "_fields"):
        return dict.fromkeys(_SPLITS) | {"train": made}, None
    if not hasattr(made, "train"):
        raise ValueError(f"{name} returns {type(made).__name__}; {_SHAPES}")
    return {key: getattr(made, key, None) for key in _SPLITS}, _class_names(name, getattr(made, "classes", None))


def _split(dataset: Any, key: str, function: Callable[..., Any], spec: Data) -> OwnSplit:
    title = f"the {key} images of {spec.dataset}"
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ValueError(f"{title} are {type(dataset).__name__}, no map-style Dataset, which has __len__ and __getitem__")
    _check_sendable(dataset, title, spec)
    try:
        length = len(dataset)
        labels = declared_labels(dataset, multi_label=spec.multi_label) if length else None
    except Exception as error:  # the user's code, which may raise anything
        raise ValueError(f"{title}: {describe_error(error, function)}") from error
    if not length:
        raise ValueError(f"{title} are none")
    items = Items(dataset, title, function)
    if labels is None:
        labels = _read_labels(items, length, spec)
    split = OwnSplit(items, torch.arange(length), labels, spec.num_channels)
    _check_samples(split, spec)
    return split


def _check_sendable(dataset: Any, title: str, spec: Data) -> None:
    """Refuses a Dataset that cannot be sent to loader processes, where these are not forked."""
    if not spec.workers or torch.multiprocessing.get_start_method() == "fork":
        return
    try:
        pickle.dumps(dataset)
    except Exception as error:  # an object's own code says in its own way that it cannot be sent
        raise ValueError(f"{title} cannot be sent to loader processes ({describe_error(error, None)}); set data.workers to 0") from error


def _read_labels(items: Items, length: int, spec: Data) -> Tensor:
    """Returns the labels of all items, each of which is read once."""
    labels = []
    for index in tqdm(range(length), desc=f"labels of {items.title}", unit="image", file=sys.stderr, disable=not sys.stderr.isatty()):
        try:
            _, label = items.read(index, seed=derive_seed(0, "item", index))
            labels.append(parse_label(label, multi_label=spec.multi_label))
        except ImageError as error:
            raise ValueError(f"{error}; its label must be known: repair it, or give the Dataset an attribute `targets`") from error
        except ValueError as error:
            raise ValueError(f"{items.name(index)}: {error}") from error
    try:
        return stack_labels(labels)
    except ValueError as error:
        raise ValueError(f"{items.title}: {error}") from error


def _check_samples(split: OwnSplit, spec: Data) -> None:
    """Compares some items with the labels, and with themselves when they are read again."""
    for index in spread(len(split.labels), _NUM_COMPARED):
        try:
            first, again = split.image(index), split.image(index)
        except ImageError as error:
            if spec.on_bad_image == "skip" and not isinstance(error, LabelError):
                continue
            raise
        if not torch.equal(first, again):
            raise ValueError(
                f"{split.name(index)} is another image when it is read again; let it draw from torch's, NumPy's or Python's own "
                "generators (random.random(), np.random.rand()), which are seeded for each image, and from no other"
            )


def _classes_of(dataset: Any) -> Any:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return getattr(dataset, "classes", None)


def _class_names(name: str, classes: Any) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, str) or not hasattr(classes, "__iter__"):
        raise ValueError(f"{name}: `classes` is {type(classes).__name__}; give a list of the classes' names")
    names = tuple(map(str, classes))
    if len(set(names)) < len(names):
        raise ValueError(f"{name}: `classes` holds {next(each for each in names if names.count(each) > 1)!r} twice")
    return names


def _check_classes(name: str, splits: dict[str, OwnSplit], names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the names of the classes, which are numbers where `names` is None."""
    counts = {key: split.labels.shape[1] if split.labels.dim() == 2 else int(split.labels.max()) + 1 for key, split in splits.items()}
    is_multi = splits["train"].labels.dim() == 2
    if is_multi and len(set(counts.values())) > 1:
        raise ValueError(f"{name}: the labels of the splits have other numbers of flags: {counts}")
    most = max(counts.values())
    if names is not None and (len(names) < most or (is_multi and len(names) != most)):
        raise ValueError(f"{name}: `classes` names {len(names)} classes, and the labels are of {most}")
    return tuple(map(str, range(most))) if names is None else names
