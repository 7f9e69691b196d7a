"""Labels of shards: class numbers, names of classes or lists of either, as one tensor for each split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutual.data.datasets.labels import exceeds_images
from mutual.data.datasets.shards.shard_index import LABEL_KEYS, ShardIndex
from mutual.recipe import MAX_CLASSES, Data, did_you_mean, format_value

CLASSES_FILE = "classes.txt"
"""Name of the file beside the shards with a line for each class."""
_MAX_FLAGS = 2**31
"""Of images with several labels each: 8 GB."""


class ShardLabels:
    """What the labels of shards stand for; those of the training images, which come first, say which classes there are.

    Args:
        spec: the recipe's data section.
        folder: of the training shards, where a file may name the classes.
    """

    def __init__(self, spec: Data, folder: Path) -> None:
        self._spec = spec
        self._file = folder / CLASSES_FILE
        self._named = _class_names(self._file)
        self._numbers: dict[str, int] | None = None
        self.class_names: tuple[str, ...] = self._named

    def of(self, indices: Sequence[ShardIndex], side: str) -> Tensor:
        """Returns the labels of the images in shards, in their order: class numbers `[N]`, or flags `[N, C]`; `train` comes first.

        Raises:
            ValueError: an image has none, or one that is no class.
        """
        by_shard = [self._labels_of(index) for index in indices]
        if side == "train":
            self._learn_classes([label for labels, _ in by_shard for label in labels], sum(len(positions) for _, positions in by_shard))
        return torch.cat([self._tensor(labels, side)[torch.from_numpy(positions)] for labels, positions in by_shard])

    def _labels_of(self, index: ShardIndex) -> tuple[list[_Label], np.ndarray]:
        """Returns the labels of a shard, and for each image the position of its own there: labels are looked at once, and not images."""
        used, first, positions = np.unique(index.label_ids, return_index=True, return_inverse=True)
        labels = []
        for number, image in zip(used.tolist(), first.tolist(), strict=True):
            values = self._values(None if number < 0 else index.labels[number], index, image)
            labels.append(_Label(values, index, image))
        return labels, positions.reshape(-1)

    def _tensor(self, labels: list[_Label], side: str) -> Tensor:
        numbers = [[self._number(value, label, side) for value in label.values] for label in labels]
        if not self._spec.multi_label:
            return torch.tensor([number for (number,) in numbers], dtype=torch.long)
        flags = torch.zeros(len(numbers), self._num_classes)
        for row, of_label in enumerate(numbers):
            flags[row, of_label] = 1.0
        return flags

    @property
    def _num_classes(self) -> int:
        return self._spec.num_classes or len(self.class_names)

    def _values(self, label: Any, index: ShardIndex, image: int) -> list[Any]:
        """Returns the class numbers and names that a label is made of."""
        if label is None:
            field = self._spec.label_field
            missing = f"no .cls, and no .json with {', '.join(LABEL_KEYS)}" if field is None else f"no .json with {field}"
            raise ValueError(
                f"{index.name(image)} has no label: its sample has {missing}; data.label_field says which key of a .json it is"
            )
        if isinstance(label, dict):
            raise ValueError(f"{index.name(image)} has no valid label: {label['bad']}")
        if isinstance(label, list) != self._spec.multi_label:
            remedy = "set data.multi_label" if isinstance(label, list) else "data.multi_label needs a list in a .json"
            raise ValueError(f"{index.name(image)} has the label {format_value(label)}; {remedy}")
        return label if isinstance(label, list) else [label]

    def _learn_classes(self, labels: list[_Label], num_images: int) -> None:
        """Takes from the training images which classes there are."""
        names = {value for label in labels for value in label.values if isinstance(value, str)}
        largest = max((label for label in labels if any(isinstance(value, int) for value in label.values)), key=_largest, default=None)
        if names and largest is not None:
            raise ValueError(
                f"{largest.image} has the label {_largest(largest)}, other images have names of classes; use the one or the other"
            )
        if names:
            self.class_names = self._named or tuple(sorted(names))
            self._numbers = {name: number for number, name in enumerate(self.class_names)}
        elif not self._named:
            if largest is not None:
                self._check_largest(_largest(largest), largest, num_images)
            self.class_names = tuple(map(str, range(1 if largest is None else _largest(largest) + 1)))
        if self._spec.multi_label and num_images * self._num_classes > _MAX_FLAGS:
            raise ValueError(f"{num_images:,} images with {self._num_classes:,} flags each are beyond any memory; take fewer")

    def _check_largest(self, number: int, label: _Label, num_images: int) -> None:
        """Refuses a class number that would make a classifier of absurd size."""
        if number >= MAX_CLASSES:
            raise ValueError(f"{label.image}: label {number} is too large; there may be {MAX_CLASSES:,} classes, numbered from 0")
        if self._spec.num_classes is None and exceeds_images(number, num_images):
            raise ValueError(
                f"{label.image}: label {number} among {num_images:,} images; if there are so many classes, set data.num_classes"
            )

    def _number(self, value: int | str, label: _Label, side: str) -> int:
        num_classes, known = self._spec.num_classes, self._numbers
        if isinstance(value, str) != (known is not None):
            kind = "class numbers" if known is None else "names of classes"
            raise ValueError(f"{label.image} has the label {format_value(value)}; the training images have {kind}")
        if isinstance(value, str):
            if value not in (known or {}):
                nearest = did_you_mean(value, known or {})
                raise ValueError(f"{label.image} has the label {format_value(value)}, which {self._unknown(side)}{nearest}")
            value = (known or {})[value]
        if num_classes is not None and value >= num_classes:
            raise ValueError(f"{label.image}: label {value} is no class; data.num_classes is {num_classes}, and they are numbered from 0")
        if num_classes is None and value >= len(self.class_names):
            raise ValueError(
                f"{label.image} has the label {value}, which {self._unknown(side)}: they go up to {len(self.class_names) - 1}; "
                "data.num_classes may say that there are more"
            )
        return value

    def _unknown(self, side: str) -> str:
        return f"{self._file} does not name" if self._named else f"no training image has (this one is of {side})"


@dataclass(frozen=True)
class _Label:
    """A label of a shard: class numbers or names, and the first of its images."""

    values: list[Any]
    index: ShardIndex
    first_image: int

    @property
    def image(self) -> str:
        return self.index.name(self.first_image)


def _largest(label: _Label) -> int:
    return max(value for value in label.values if isinstance(value, int))


def _class_names(file: Path) -> tuple[str, ...]:
    """Returns the names of classes in a file, one a line, or none where there is no such file."""
    if not file.is_file():
        return ()
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8; it should name a class a line") from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    known: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name or name in known:
            raise ValueError(f"{file}, line {number}: {f'{name} is there twice' if name else 'it is empty'}; it should name a class a line")
        known.add(name)
    return tuple(names)
