"""Augmentation: crops, flips and erased rectangles of all images of a batch at once, on any device.

Which transforms a recipe names becomes, by the images' keys, integers: from where each pixel is taken and which rectangles are erased. They
are drawn on the host; what is then done to pixels are integer operations, the same bits on every device and for every batch.
Shapes: B images, C channels, H x W pixels before and h x w after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mutual.data.transforms.draws import Keys, derive_keys, uniforms
from mutual.data.transforms.erasing import Erasure, NoiseErasure, draw_erasure
from mutual.recipe import transforms as specs

_Integers = NDArray[np.int64]
_COUNTED = (specs.RandomCrop, specs.HorizontalFlip, specs.VerticalFlip, specs.HalfTurn, specs.RandomErasing)
_FLIPPED_DIMS = {"horizontal_flip": (3,), "vertical_flip": (2,), "half_turn": (2, 3)}


@dataclass(frozen=True)
class Crop:
    """From where each pixel is taken.

    Attributes:
        rows_Bh: the row for each row of the result; -1 stands for zeros.
        columns_Bw: the same for columns.
        has_zeros: whether one of them may be -1.
    """

    rows_Bh: Tensor
    columns_Bw: Tensor
    has_zeros: bool

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Returns the images `[B, C, h, w]`."""
        (size, channels), width = images_BCHW.shape[:2], images_BCHW.shape[3]
        source_Bhw = self.rows_Bh.clamp(min=0)[:, :, None] * width + self.columns_Bw.clamp(min=0)[:, None]
        picked = images_BCHW.flatten(2).gather(2, source_Bhw.flatten(1)[:, None].expand(-1, channels, -1))
        picked = picked.view(size, channels, *source_Bhw.shape[1:])
        if not self.has_zeros:
            return picked
        inside_Bhw = (self.rows_Bh >= 0)[:, :, None] & (self.columns_Bw >= 0)[:, None]
        return picked.mul_(inside_Bhw[:, None])

    def map(self, function: Callable[[Tensor], Tensor]) -> Crop:
        """Returns the same with what `function` makes of each tensor."""
        return Crop(function(self.rows_Bh), function(self.columns_Bw), self.has_zeros)


@dataclass(frozen=True)
class Flip:
    """Which images are mirrored.

    Attributes:
        mask_B: 255 for those that are, and 0.
        dims: the dimensions along which they are.
    """

    mask_B: Tensor
    dims: tuple[int, ...]

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Returns the images."""
        # the bits that differ, of those that are flipped: on a CPU several times as fast as torch.where or an index, and no index on a GPU
        changes = images_BCHW.flip(self.dims).bitwise_xor_(images_BCHW).bitwise_and_(self.mask_B[:, None, None, None])
        return changes.bitwise_xor_(images_BCHW)

    def map(self, function: Callable[[Tensor], Tensor]) -> Flip:
        """Returns the same with what `function` makes of each tensor."""
        return Flip(function(self.mask_B), self.dims)


Step = Crop | Flip | Erasure | NoiseErasure


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images of one batch, step by step."""

    steps: tuple[Step, ...]

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Returns the images `[B, C, h, w]`."""
        for step in self.steps:
            images_BCHW = step(images_BCHW)
        return images_BCHW

    def map(self, function: Callable[[Tensor], Tensor]) -> Augmentation:
        """Returns the same with what `function` makes of each of its tensors: brought to a device, say."""
        return Augmentation(tuple(step.map(function) for step in self.steps))


class CountedTransforms:
    """Consecutive transforms of a recipe that can be drawn and done for all images of a batch at once.

    Args:
        chosen: the transforms; `is_counted` holds for each.
        first: the position of the first of them in the recipe's list, on which its random numbers depend.
        image_size: height and width of what a transform without a size gives.
    """

    def __init__(self, chosen: Sequence[specs.Transform], first: int, image_size: tuple[int, int]) -> None:
        self._chosen = list(enumerate(chosen, first))
        self._image_size = image_size

    def __call__(self, images_BCHW: Tensor, keys: Keys) -> Tensor:
        """Returns images of these keys `[B, C, h, w]`.

        Raises:
            ValueError: a transform does not take images of this size.
        """
        height, width = images_BCHW.shape[2:]
        return self.draw(keys, (height, width))(images_BCHW)

    def draw(self, keys: Keys, size: tuple[int, int]) -> Augmentation:
        """Returns what is done to images of these keys, all of `size` (height, width).

        Raises:
            ValueError: a transform does not take images of this size.
        """
        steps: list[Step] = []
        for position, spec in self._chosen:
            own_keys = derive_keys(keys, position)
            match spec:
                case specs.RandomCrop():
                    wanted = height_and_width(spec.size, self._image_size)
                    steps.append(_draw_crop(spec, own_keys, size, wanted))
                    size = wanted
                case specs.HorizontalFlip() | specs.VerticalFlip() | specs.HalfTurn():
                    steps.append(_draw_flip(spec, own_keys))
                case specs.RandomErasing():
                    steps.append(draw_erasure(spec, own_keys, size))
                case _:
                    raise AssertionError(f"{spec.name} is not counted")
        return Augmentation(tuple(steps))


def is_counted(spec: specs.Transform) -> bool:
    """Returns whether a transform can be drawn and done for all images of a batch at once."""
    return isinstance(spec, _COUNTED)


def _draw_crop(spec: specs.RandomCrop, keys: Keys, size: tuple[int, int], wanted: tuple[int, int]) -> Crop:
    padding = spec.padding
    padded = size[0] + 2 * padding, size[1] + 2 * padding
    if wanted[0] > padded[0] or wanted[1] > padded[1]:
        raise ValueError(f"Required crop size {wanted} is larger than padded input image size {padded}.")
    if padding > {"reflect": min(size) - 1, "symmetric": min(size)}.get(spec.padding_mode, padding):
        raise ValueError(f"Padding size should be less than the image's side, with padding_mode {spec.padding_mode}, but got {padding}.")
    drawn = uniforms(keys, 2)
    rows_Bh, columns_Bw = (
        torch.from_numpy(_padded_positions(np.int64(place * (most - length + 1)), length, own, spec))
        for place, most, length, own in zip(drawn.T, padded, wanted, size, strict=True)
    )
    return Crop(rows_Bh, columns_Bw, has_zeros=padding > 0 and spec.padding_mode == "constant")


def _padded_positions(first_B: _Integers, length: int, size: int, spec: specs.RandomCrop) -> _Integers:
    """Returns from where `length` pixels are taken, from number `first_B` of a padded row or column on that has `size` of its own."""
    positions = first_B[:, None] + np.arange(length) - spec.padding
    if spec.padding_mode == "edge":
        return positions.clip(0, size - 1)
    if spec.padding_mode == "constant":
        return np.where((positions < 0) | (positions >= size), -1, positions)
    repeated = int(spec.padding_mode == "symmetric")  # whether the outermost pixel stands on both sides of the mirror
    mirrored = np.where(positions < 0, -positions - repeated, positions)
    return np.where(mirrored >= size, 2 * (size - 1) - mirrored + repeated, mirrored)


def _draw_flip(spec: specs.HorizontalFlip | specs.VerticalFlip | specs.HalfTurn, keys: Keys) -> Flip:
    mask_B = (uniforms(keys, 1)[:, 0] < spec.p) * np.uint8(255)
    return Flip(torch.from_numpy(mask_B), _FLIPPED_DIMS[spec.name])


def height_and_width(size: int | tuple[int, int] | None, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns a transform's size as a pair, or `image_size` where it has none."""
    if size is None:
        return image_size
    return (size, size) if isinstance(size, int) else size
