"""Columns: which of a table's columns hold the images and the labels, found by their types, and the labels as numbers of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mutual.data.datasets.labels import exceeds_images
from mutual.recipe import MAX_CLASSES, did_you_mean, first_line, format_value

if TYPE_CHECKING:
    from datasets import Dataset

_LABEL_NAMES = ("label", "labels", "class", "target")
_MANY_IMAGES = 10  # of which no two have the same label
_MAX_FLAGS = 10**9  # of images with several labels, in 4 GB
_MAX_SHOWN = 20  # columns in a message


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels.

    Attributes:
        name: the column's.
        feature: its type, as `datasets` says it; the same in all splits.
        class_names: the names of the classes that its numbers stand for, or that its texts are; None where its numbers have no names.
        is_found: nobody has named it: it is the one whose type is that of labels.
    """

    name: str
    feature: Any
    class_names: tuple[str, ...] | None
    is_found: bool


def image_column(dataset: Dataset, named: str | None, where: str) -> str:
    """Returns the name of the column that holds the images; `where` is what the data set is called in messages.

    Raises:
        ValueError: there is none, or several, or `named` is none.
    """
    import datasets

    types = _types(dataset)
    if named is not None:
        kind = _type_of(named, types, where, "image")
        if not (is_encoded(kind) or is_text(kind) or is_array(kind)):
            raise ValueError(f"data.columns.image: column {format_value(named)} of {where} holds {kind}, which are no images")
        return named
    tiers = [
        [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)],
        [name for name, kind in types.items() if is_encoded(kind) and isinstance(dataset.features[name], dict | datasets.Value)],
        [name for name, kind in types.items() if is_array(kind)],
    ]
    return _only(tiers, types, where, "image", "an Image, contents of image files or arrays")[0]


def label_column(dataset: Dataset, named: str | None, where: str, *, several: bool) -> LabelColumn:
    """Returns the column that holds the labels of the training images, lists of them where an image has `several`.

    Raises:
        ValueError: there is none, or more than one that could be it, or `named` is none.
    """
    import datasets

    types = _types(dataset)
    items = {name: kind.value_type if several else kind for name, kind in types.items() if is_list(kind) == several}
    features = {name: _item(dataset.features[name]) if several else dataset.features[name] for name in items}
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [name for name, kind in items.items() if is_text(kind) or (pa.types.is_integer(kind) and not several)]
    wanted = "lists of ClassLabel or of texts" if several else "a ClassLabel, whole numbers or texts"
    if named is None:
        tiers = [classes, [name for name in plain if name.lower() in _LABEL_NAMES], plain]
        name, is_found = _only(tiers, types, where, "label", wanted)
    else:
        kind, name, is_found = _type_of(named, types, where, "label"), named, False
        if name not in {*classes, *plain}:
            remedy = "set data.multi_label: true" if is_list(kind) and not several else f"labels are {wanted}"
            raise ValueError(f"data.columns.label: column {format_value(name)} of {where} holds {kind}; {remedy}")
    feature, class_names = features[name], None
    if isinstance(feature, datasets.ClassLabel):
        class_names = tuple(feature.names)
    elif is_text(items[name]):
        check_table(dataset.data.table.column(name), where)
        distinct = pc.unique(_values(dataset, name)).to_pylist()
        class_names = tuple(sorted(text for text in distinct if text is not None))
    return LabelColumn(name, dataset.features[name], class_names, is_found)


def read_labels(dataset: Dataset, column: LabelColumn, where: str, *, num_classes: int | None) -> Tensor:
    """Returns class indices `[N]`, or flags (float32) `[N, C]` where the column has lists; no image is read.

    Args:
        dataset: one split.
        column: that of the training images; other splits have no other classes.
        where: what the split is called in messages.
        num_classes: how many classes numbers without names stand for, if that is known.

    Raises:
        ValueError: a label is missing, or is none of the classes.
    """
    if dataset.features.get(column.name) != column.feature:
        raise ValueError(f"{where} has no column {format_value(column.name)} of the training images' type and classes")
    whole = dataset.data.table.column(column.name)
    check_table(whole, where)
    values = _values(dataset, column.name)
    num_missing = whole.null_count or values.null_count
    if num_missing:
        raise ValueError(f"{where} has no label for {num_missing:,} images ({column.name}); take them out, or name another split")
    if is_text(values.type):
        values = _positions(values, column.class_names or (), where)
    labels = torch.from_numpy(values.to_numpy().astype(np.int64))
    _check_range(labels, column, where, num_classes if column.class_names is None else len(column.class_names))
    return _flags(whole, labels, len(column.class_names or ()), where) if is_list(whole.type) else labels


def check_table(column: Any, where: str) -> None:
    """Raises a ValueError where positions in a column are not within it, or texts no UTF-8: reading them could end the process."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{where} is damaged: {first_line(error)}") from error


def is_encoded(kind: Any) -> bool:
    """Returns whether values of this type are contents of image files, or a structure of these (`bytes`) and names (`path`)."""
    if pa.types.is_struct(kind):
        parts = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
        is_named = is_text(path := parts.get("path", pa.string())) or pa.types.is_null(path)
        return is_named and "bytes" in parts and is_encoded(parts["bytes"])
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_array(kind: Any) -> bool:
    """Returns whether values of this type are lists of lists of numbers."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    depth = 0
    while is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth > 1 and (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def is_list(kind: Any) -> bool:
    """Returns whether values of this type are lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_text(kind: Any) -> bool:
    """Returns whether values of this type are texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _types(dataset: Dataset) -> dict[str, Any]:
    return {field.name: field.type for field in dataset.data.table.schema}


def _item(feature: Any) -> Any:
    """Returns what `datasets` says of the values of lists."""
    return feature[0] if isinstance(feature, list) else feature.feature


def _type_of(name: str, types: Mapping[str, Any], where: str, key: str) -> Any:
    if name not in types:
        raise ValueError(f"data.columns.{key}: {where} has no column {format_value(name)}{did_you_mean(name, types)}")
    return types[name]


def _only(tiers: Sequence[list[str]], types: Mapping[str, Any], where: str, key: str, wanted: str) -> tuple[str, bool]:
    """Returns the one column of the first tier that has any, and whether that is the last tier.

    Raises:
        ValueError: no tier has one, or the first that has one has several.
    """
    found = next((tier for tier in tiers if tier), [])
    if len(found) == 1:
        return found[0], found is tiers[-1]
    if found:
        raise ValueError(f"{where}: the {key} may be in {' or '.join(map(format_value, found))}; set data.columns: {{{key}: {found[0]}}}")
    raise ValueError(f"{where} has no column of type {key} ({wanted}); it has {_described(types)}")


def _described(types: Mapping[str, Any]) -> str:
    shown = [f"{format_value(name)} ({kind})" for name, kind in islice(types.items(), _MAX_SHOWN)]
    return ", ".join(shown) + (", ..." if len(types) > _MAX_SHOWN else "")


def _values(dataset: Dataset, name: str) -> Any:
    """Returns a column's values, those of lists behind each other, read from their own pages alone."""
    column = dataset.data.table.column(name)
    return pc.list_flatten(column) if is_list(column.type) else column


def _positions(texts: Any, class_names: tuple[str, ...], where: str) -> Any:
    positions = pc.index_in(texts, value_set=pa.array(class_names, texts.type))
    if positions.null_count:
        unknown = texts.filter(pc.is_null(positions))[0].as_py()
        raise ValueError(f"{where} has the class {format_value(unknown)}, which no training image has; the classes differ")
    return positions


def _check_range(labels: Tensor, column: LabelColumn, where: str, num_classes: int | None) -> None:
    if not len(labels):
        return
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0:
        unknown = " (not told)" if smallest == -1 else ""
        raise ValueError(
            f"{where}: {int((labels < 0).sum()):,} images have the label {smallest}{unknown} in {column.name}; "
            "take them out, or name another split in data.train, data.val or data.test"
        )
    if num_classes is not None and largest >= num_classes:
        raise ValueError(f"{where}: label {largest} in {column.name} is no class; there are {num_classes}, numbered from 0")
    if largest >= MAX_CLASSES or (column.class_names is None and exceeds_images(largest, len(labels))):
        raise ValueError(f"{where}: label {largest} in {column.name} is too large for a class; name another column in data.columns")
    if column.is_found and len(labels) > _MANY_IMAGES and len(labels.unique()) == len(labels):
        raise ValueError(f"{where}: each image has a label of its own in {column.name}; name the labels' column in data.columns")


def _flags(lists: Any, labels: Tensor, num_classes: int, where: str) -> Tensor:
    if len(lists) * num_classes > _MAX_FLAGS:
        raise ValueError(f"{where}: {len(lists):,} images with {num_classes:,} flags each are beyond any memory; name fewer classes")
    lengths = torch.from_numpy(pc.list_value_length(lists).to_numpy().astype(np.int64))
    flags_NC = torch.zeros(len(lists), num_classes)
    flags_NC[torch.arange(len(lists)).repeat_interleave(lengths), labels] = 1
    return flags_NC
