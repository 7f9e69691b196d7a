"""Holding out: fractions of the training images as validation and test images, drawn by a seed, each class as often as among all."""

from __future__ import annotations

import torch
from torch import Tensor

from mutual.data.datasets.splits import stratified_subset
from mutual.recipe import derive_seed


def held_out(labels: Tensor, fractions: dict[str, float], *, seed: int) -> dict[str, Tensor]:
    """Returns by name the sorted indices that each of `fractions` of all images holds out, and of the rest under `train`.

    The fractions hold out different images; which those are of one depends on those before it alone, so that a test split stays what it is
    when the validation split grows.

    Raises:
        ValueError: nothing would be left, or nothing held out.
    """
    rest = torch.arange(len(labels))
    parts = {}
    for name, fraction in fractions.items():
        size = round(fraction * len(labels))
        if not 0 < size < len(rest):
            raise ValueError(
                f"data.{name}: {fraction:g} of {len(labels)} images are {size}, of {len(rest)} that are there; hold out fewer or more"
            )
        chosen = stratified_subset(labels[rest], size, seed=derive_seed(seed, "held out", name))
        parts[name] = rest[chosen]
        keep = torch.ones(len(rest), dtype=torch.bool)
        keep[chosen] = False
        rest = rest[keep]
    return {**parts, "train": rest}
