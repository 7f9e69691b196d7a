"""Stratified choices of images, drawn by a seed, each class as often as among all: splits that are held out, and subsets."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mutual.data.datasets.labels import class_counts
from mutual.data.datasets.splits import EncodedSplit, Split
from mutual.recipe import derive_seed


def held_out(split: Split, fractions: Mapping[str, float], *, seed: int) -> dict[str, Tensor]:
    """Returns by name the sorted indices that each of `fractions` of the images of `split` holds out, and of the rest under `train`.

    Which images these are depends on their names and labels and on `seed`, in whatever order they are found; where they have no names,
    on their numbers. Each class is in a part as often as among all, and at least once where it has enough images: the rest keeps one
    before any part has one, the last part before the first. The same file under several labels or in several lines is in one part.

    The first part does not depend on the size of those behind it, so that a test split stays what it is when the validation split grows
    (where images have several labels, as long as the smallest fraction stays).

    Raises:
        ValueError: a part would have no image.
    """
    unit_N = _units(split, seed)
    first_U = torch.full((int(unit_N.max()) + 1,), len(unit_N)).scatter_reduce(0, unit_N, torch.arange(len(unit_N)), "amin")
    stratum_U = _strata(split.labels[first_U], smallest=math.ceil(1 / min(fractions.values())))
    count_S = stratum_U.bincount()
    by_stratum = stratum_U.argsort(stable=True)  # and in it by number, which is random
    position_U = torch.empty_like(stratum_U)
    position_U[by_stratum] = torch.arange(len(stratum_U)) - (count_S.cumsum(0) - count_S).repeat_interleave(count_S)
    taken_S, is_rest_U = torch.zeros_like(count_S), torch.ones_like(stratum_U, dtype=torch.bool)
    parts = {}
    for number, (name, fraction) in enumerate(fractions.items()):
        num_behind = len(fractions) - number  # the parts that are still to come, and the rest
        quota_S = _quotas(count_S, fraction, largest_S=(count_S - taken_S - num_behind).clamp(min=0))
        is_chosen_U = (position_U >= taken_S[stratum_U]) & (position_U < (taken_S + quota_S)[stratum_U])
        if not is_chosen_U.any():
            raise ValueError(f"data.{name}: no class has images enough that {fraction:g} of them could be held out")
        parts[name] = is_chosen_U[unit_N].nonzero().flatten()
        is_rest_U &= ~is_chosen_U
        taken_S += quota_S
    return {**parts, "train": is_rest_U[unit_N].nonzero().flatten()}


def small_classes(labels: Tensor, parts: Mapping[str, Tensor], class_names: tuple[str, ...]) -> list[str]:
    """Returns a line for the parts that have no image of the same classes: which these are, and how many images they have."""
    counts = class_counts(labels, len(class_names))
    parts_without: dict[tuple[int, ...], list[str]] = {}
    for name, indices in parts.items():
        missing = ((counts > 0) & (class_counts(labels[indices], len(counts)) == 0)).nonzero().flatten().tolist()
        if missing:
            parts_without.setdefault(tuple(missing), []).append(name)
    lines = []
    for classes, names in parts_without.items():
        shown = ", ".join(f"{class_names[label]} ({int(counts[label])})" for label in classes[:3]) + (", ..." if len(classes) > 3 else "")
        verb = "has" if len(names) == 1 else "have"
        lines.append(f"{' and '.join(names)} {verb} no image of {len(classes)} of {len(counts)} classes, which have too few: {shown}")
    return lines


def stratified_subset(labels: Tensor, size: int, *, seed: int) -> Tensor:
    """Returns `size` sorted random indices in which every class is as frequent as in `labels` (largest remainders).

    Where images have several labels, each combination of them is a class.

    Raises:
        ValueError: there are fewer images than that.
    """
    if size > len(labels):
        raise ValueError(f"subset: {size} images wanted, the training split has {len(labels)}")
    if labels.dim() == 2:
        labels = labels.unique(dim=0, return_inverse=True)[1]
    classes, counts = labels.unique(return_counts=True)
    quota = _rounded(counts.double() * size / len(labels), size)
    generator = torch.Generator().manual_seed(derive_seed(seed, "subset"))
    chosen = []
    for label, num_chosen in zip(classes.tolist(), quota.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:num_chosen]])
    return torch.cat(chosen).sort().values


def _units(split: Split, seed: int) -> Tensor:
    """Returns for each image a random number from 0 on, the same for images of the same file; U of them are different."""
    num_images = len(split.labels)
    if not isinstance(split, EncodedSplit):
        return torch.randperm(num_images, generator=torch.Generator().manual_seed(derive_seed(seed, "held out")))
    portable, local = list(split.portable_names()), [split.name(index) for index in range(num_images)]
    local_of: dict[str, str] = {}
    shared = {name for name, path in zip(portable, local, strict=True) if local_of.setdefault(name, path) != path}
    key = derive_seed(seed, "held out").to_bytes(8, "little")
    names = (path if name in shared else name for name, path in zip(portable, local, strict=True))
    digests = (int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8, key=key).digest(), "little") for name in names)
    return torch.from_numpy(np.unique(np.fromiter(digests, np.uint64, num_images), return_inverse=True)[1].reshape(-1))


def _strata(labels: Tensor, *, smallest: int) -> Tensor:
    """Returns for each image the number of its stratum: its class, or of images with several labels their combination.

    Of combinations that fewer than `smallest` images have, too few to share out, an image's stratum is the rarest of its labels.
    """
    if labels.dim() == 1:
        return labels.unique(return_inverse=True)[1]
    _, combination_N, counts = labels.unique(dim=0, return_inverse=True, return_counts=True)
    num_images_C = labels.sum(dim=0)
    rarest_N = torch.where(labels > 0, num_images_C, math.inf).argmin(dim=1)
    rarest_N = torch.where(labels.any(dim=1), rarest_N, labels.shape[1])  # without any label
    is_rare_N = counts[combination_N] < smallest
    return torch.where(is_rare_N, len(counts) + rarest_N, combination_N).unique(return_inverse=True)[1]


def _quotas(count_S: Tensor, fraction: float, *, largest_S: Tensor) -> Tensor:
    """Returns how many of each stratum's images are `fraction` of them, at least one, and as many in all as `fraction` says if they can."""
    size = round(fraction * int(count_S.sum()))
    quota_S = _rounded(count_S.double() * fraction, size).clamp(min=1).minimum(largest_S)
    spare_S = (quota_S - 1).clamp(min=0)
    surplus = min(int(quota_S.sum()) - size, int(spare_S.sum()))
    return quota_S - _rounded(spare_S.double() * surplus / spare_S.sum(), surplus) if surplus > 0 else quota_S


def _rounded(exact_S: Tensor, size: int) -> Tensor:
    """Returns `exact_S` in whole numbers whose sum is `size` (largest remainders)."""
    rounded_S = exact_S.floor().long()
    by_remainder = (exact_S - rounded_S).argsort(descending=True, stable=True)
    rounded_S[by_remainder[: size - int(rounded_S.sum())]] += 1
    return rounded_S
