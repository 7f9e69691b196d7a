"""Batch: images as they travel to the device, and `to_inputs`, which makes of them there what the peers read.

Shapes: V views, B images (padding included), X extra images that are only mixed in, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class DataInfo:
    """What a data set is: its classes, its images' form, and the statistics that normalise pixel values in 0 .. 1."""

    num_classes: int
    class_names: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_train: int
    num_val: int
    multi_label: bool = False


@dataclass(frozen=True)
class Mix:
    """How each of B images is mixed with a partner (MixUp, CutMix).

    Attributes:
        partner_B: the partner's place among the batch's B + X images.
        own_B: the share of the image itself, in 0 .. 1.
        box_B4: top, left, bottom, right of the partner's pasted box in pixels; an empty box means that the images are blended.
    """

    partner_B: Tensor
    own_B: Tensor
    box_B4: Tensor


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read, and its place among the real images of its batch."""

    path: str
    reason: str
    place: int


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one rank.

    Attributes:
        images: uint8 `[B + X, C, H, W]`, or with views `[V, B + X, C, H, W]`.
        labels: class indices `[B + X]`, -1 where none is known, or flags (float32) `[B + X, C]` of several labels each.
        count: so many images, the first ones, are real; the rest of B is padding.
        total: real images of this micro-batch over all ranks.
        mix: how the first B are mixed, or None.
        bad: the real images that could not be read: in training others stand in their places, in evaluation their places are blank.
    """

    images: Tensor
    labels: Tensor
    count: int
    total: int
    mix: Mix | None = None
    bad: tuple[BadImage, ...] = ()

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        """Returns the batch on `device`."""
        mix = self.mix and Mix(
            *(part.to(device, non_blocking=non_blocking) for part in (self.mix.partner_B, self.mix.own_B, self.mix.box_B4))
        )
        images, labels = (part.to(device, non_blocking=non_blocking) for part in (self.images, self.labels))
        return replace(self, images=images, labels=labels, mix=mix)

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory; the loader calls it where there is a GPU."""
        mix = self.mix and Mix(self.mix.partner_B.pin_memory(), self.mix.own_B.pin_memory(), self.mix.box_B4.pin_memory())
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory(), mix=mix)


@dataclass(frozen=True)
class Window:
    """What one update learns from: this rank's micro-batches.

    Attributes:
        num_samples: samples over all ranks, the update's divisor.
        batches: this rank's part of each micro-batch.
    """

    num_samples: int
    batches: list[Batch]


def to_inputs(batch: Batch, info: DataInfo) -> tuple[Tensor, Tensor]:
    """Returns float32 images `[B, C, H, W]` (or `[V, B, C, H, W]`) and labels: indices `[B]`, or `[B, C]` if mixed or several."""
    images = normalize(batch.images, info.mean, info.std)
    if batch.mix is None:
        return images, batch.labels
    return mix(images, batch.labels, batch.mix, num_classes=info.num_classes)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns uint8 images `[..., C, H, W]` as float32, minus `mean`, divided by `std` (of pixel values in 0 .. 1)."""
    return (images.float() / 255 - _by_channel(tuple(mean), images.device)) / _by_channel(tuple(std), images.device)


@lru_cache  # so that no step copies them to the device again
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def mix(images: Tensor, labels: Tensor, how: Mix, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Returns the mixed images `[..., B, C, H, W]` and their labels as probabilities `[B, num_classes]`."""
    size = len(how.partner_B)
    own, partner = images[..., :size, :, :, :], images[..., how.partner_B, :, :, :]
    rows = torch.arange(images.shape[-2], device=images.device)[:, None]
    columns = torch.arange(images.shape[-1], device=images.device)
    top, left, bottom, right = (how.box_B4[:, side, None, None] for side in range(4))
    inside = ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right))[:, None]
    boxed = (bottom > top)[:, None]
    share = how.own_B[:, None, None, None]
    blended = share * own + (1 - share) * partner
    mixed = torch.where(boxed, torch.where(inside, partner, own), blended)
    one_hot = labels if labels.is_floating_point() else F.one_hot(labels, num_classes).to(images.dtype)
    share = how.own_B[:, None]
    return mixed, share * one_hot[:size] + (1 - share) * one_hot[how.partner_B]
