"""Labels of Datasets of the user's own: from their attributes where they have them, else from their items, once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from mutual.recipe import MAX_CLASSES

_ATTRIBUTES = ("targets", "labels")


def parse_label(label: Any, *, multi_label: bool) -> int | list[float]:
    """Returns a class index, or the flags of an image that may have several labels.

    Raises:
        ValueError: it is none.
    """
    try:
        values = np.asarray(label.detach().cpu() if isinstance(label, Tensor) else label)
    except (TypeError, ValueError):  # lists of several lengths, say
        values = np.asarray("")
    if multi_label:
        if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            raise ValueError(f"its label is {label!r:.60}; with data.multi_label it is a vector with a 0 or 1 for each class")
        flags: list[float] = values.astype(float).tolist()
        return flags
    if values.size != 1 or values.dtype.kind not in "iu" or values.ndim > 1:
        raise ValueError(f"its label is {label!r:.60}; it is to be a class number (several labels each: data.multi_label)")
    number = int(values.reshape(()))
    if not 0 <= number < MAX_CLASSES:
        raise ValueError(f"its label is {number}; classes are numbered from 0 to {MAX_CLASSES - 1:,} at most")
    return number


def declared_labels(dataset: Any, *, multi_label: bool) -> Tensor | None:
    """Returns the labels that `targets` or `labels` of the Dataset holds, or those of what it is a part of; None where none does."""
    if isinstance(dataset, Subset):
        whole = declared_labels(dataset.dataset, multi_label=multi_label)
        return None if whole is None else whole[torch.as_tensor(list(dataset.indices), dtype=torch.long)]
    if isinstance(dataset, ConcatDataset):
        parts = [declared_labels(part, multi_label=multi_label) for part in dataset.datasets]
        found = [part for part in parts if part is not None]
        return torch.cat(found) if len(found) == len(parts) and len({part.shape[1:] for part in found}) == 1 else None
    for key in _ATTRIBUTES:
        labels = _as_labels(getattr(dataset, key, None), len(dataset), multi_label=multi_label)
        if labels is not None:
            return labels
    return None


def stack_labels(labels: Sequence[int | list[float]]) -> Tensor:
    """Returns labels as class indices `[N]`, or as flags (float32) `[N, C]`.

    Raises:
        ValueError: they have several numbers of flags.
    """
    if not isinstance(labels[0], list):
        return torch.tensor(labels)
    widths = {len(flags) for flags in labels if isinstance(flags, list)}
    if len(widths) > 1:
        raise ValueError(f"items have {min(widths)} to {max(widths)} flags; each needs one for each class")
    return torch.tensor(labels, dtype=torch.float32)


def _as_labels(values: Any, length: int, *, multi_label: bool) -> Tensor | None:
    """Returns what an attribute holds as labels; None where it holds something else."""
    if values is None or isinstance(values, str | bytes) or callable(values):
        return None
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError):
        return None
    if multi_label:
        fits = (
            array.ndim == 2 and len(array) == length and array.shape[1] > 0 and array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all()
        )
        return torch.from_numpy(array.astype(np.float32)) if fits else None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    fits = array.ndim == 1 and array.dtype.kind in "iu" and bool(((array >= 0) & (array < MAX_CLASSES)).all())
    return torch.from_numpy(array.astype(np.int64)) if fits else None
