"""Batch: images as they travel to the device, and `mixed`, which mixes them there (MixUp, CutMix).

Shapes: V views, B images (padding included), X extra images that are only mixed in, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.data.transforms.augmentation import Augmentation


@dataclass(frozen=True)
class Mix:
    """How each of B images is mixed with a partner (MixUp, CutMix).

    Attributes:
        partner_B: the partner's row among the batch's B + X images.
        lam_B: lambda, the weight of the image itself, in 0 .. 1.
        box_B4: top, left, bottom, right of the partner's pasted box in pixels; an empty box means that the images are blended.
    """

    partner_B: Tensor
    lam_B: Tensor
    box_B4: Tensor


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read, and its row in its batch."""

    path: str
    reason: str
    row: int


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one rank.

    Attributes:
        images: uint8 `[B + X, C, H, W]`, or with views `[V, B + X, C, H, W]`.
        labels: class indices `[B + X]`, -1 where none is known, or flags (float32) `[B + X, C]` of several labels each.
        num_valid: number of valid images, the first ones; the rest of B is padding.
        global_batch_size: valid images of this micro-batch over all ranks.
        mix: how the first B are mixed, or None.
        bad: the valid images that could not be read: in training their rows hold substitutes, in evaluation they are blank.
        keys_B2: of each of the first B the index of the image and the number of its view (the epoch, where views are not counted), which
            determine its pixels and those that are mixed in; in the CPU's memory.
        augmentations: what is left to be done to the images, one for each view: `to` does it, on the device.
    """

    images: Tensor
    labels: Tensor
    num_valid: int
    global_batch_size: int
    mix: Mix | None = None
    bad: tuple[BadImage, ...] = ()
    keys_B2: Tensor | None = None
    augmentations: tuple[Augmentation, ...] = ()

    @property
    def num_rows(self) -> int:
        """Number of images that the peers see, B."""
        return len(self.labels) if self.mix is None else len(self.mix.partner_B)

    @property
    def readable_rows(self) -> list[int]:
        """The rows of the valid images that could be read."""
        bad_rows = {image.row for image in self.bad}
        return [row for row in range(self.num_valid) if row not in bad_rows]

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        """Returns the batch on `device`, its images augmented."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking)).augmented()

    def augmented(self) -> Batch:
        """Returns the batch with nothing left to be done to its images."""
        if not self.augmentations:
            return self
        images_of = self.images if self.images.dim() == 5 else [self.images] * len(self.augmentations)
        views = [augmentation(images) for augmentation, images in zip(self.augmentations, images_of, strict=True)]
        return replace(self, images=views[0] if len(views) == 1 else torch.stack(views), augmentations=())

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory; the loader calls it where there is a GPU."""
        return self._map(Tensor.pin_memory)

    def device_tensors(self) -> list[Tensor]:
        """Returns what is on the device."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self._map(note)
        return found

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Returns the batch with what `function` makes of each tensor that belongs on the device."""
        mix = self.mix and Mix(function(self.mix.partner_B), function(self.mix.lam_B), function(self.mix.box_B4))
        augmentations = tuple(augmentation.map(function) for augmentation in self.augmentations)
        return replace(self, images=function(self.images), labels=function(self.labels), mix=mix, augmentations=augmentations)


@dataclass(frozen=True)
class Window:
    """What one update learns from: this rank's micro-batches.

    Attributes:
        num_samples: samples over all ranks, the update's divisor.
        batches: this rank's shard of each micro-batch; they may be loaded only when they are asked for.
        sizes: number of images that the peers see of each, which is known before they are loaded.
    """

    num_samples: int
    batches: Sequence[Batch]
    sizes: Sequence[int]


def mixed(batch: Batch, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Returns pixels `[B, C, H, W]` (or `[V, B, C, H, W]`) and labels: indices `[B]`, or `[B, num_classes]` if mixed or several.

    Pixels are uint8, or where images are mixed float32 in 0 .. 255: a peer's input normalises them.
    """
    if batch.mix is None:
        return batch.images, batch.labels
    return mix(batch.images.float(), batch.labels, batch.mix, num_classes=num_classes)


def mix(images: Tensor, labels: Tensor, how: Mix, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Returns the mixed images `[..., B, C, H, W]` and their labels as probabilities `[B, num_classes]`."""
    size = len(how.partner_B)
    own, partner = images[..., :size, :, :, :], images[..., how.partner_B, :, :, :]
    rows = torch.arange(images.shape[-2], device=images.device)[:, None]
    columns = torch.arange(images.shape[-1], device=images.device)
    top, left, bottom, right = (how.box_B4[:, side, None, None] for side in range(4))
    inside = ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right))[:, None]
    boxed = (bottom > top)[:, None]
    lam = how.lam_B[:, None, None, None]
    blended = lam * own + (1 - lam) * partner
    mixed = torch.where(boxed, torch.where(inside, partner, own), blended)
    one_hot = labels if labels.is_floating_point() else F.one_hot(labels, num_classes).to(images.dtype)
    lam = how.lam_B[:, None]
    return mixed, lam * one_hot[:size] + (1 - lam) * one_hot[how.partner_B]
