"""Erasing: rectangles of a batch's images that are filled with zeros, a color or noise, with the same bits on every device.

Shapes: B images, R of which are erased, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mutual.data.transforms.draws import Keys, derive_keys, random_bytes, uniforms
from mutual.recipe import transforms as specs

_LEVELS = 2**16
"""Of the numbers that normal noise is made of: two random bytes choose one of so many quantiles."""


@dataclass(frozen=True)
class Erasure:
    """A rectangle of each image that is erased.

    Attributes:
        box_B4: its top, left, bottom and right in pixels; an empty one leaves the image as it is.
        noise_key_B: the keys of the uniform noise that it is filled with, or None.
        color_C: the color that it is filled with, or None; without either it is zeros.
    """

    box_B4: Tensor
    noise_key_B: Tensor | None = None
    color_C: Tensor | None = None

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Returns the images."""
        inside_B1HW = _inside(self.box_B4, images_BCHW)
        if self.noise_key_B is not None:
            noise = random_bytes(self.noise_key_B, math.prod(images_BCHW.shape[1:])).view(images_BCHW.shape)
            return torch.where(inside_B1HW, noise, images_BCHW)
        if self.color_C is not None:
            return torch.where(inside_B1HW, self.color_C[:, None, None].expand(images_BCHW.shape[1], 1, 1), images_BCHW)
        return images_BCHW * ~inside_B1HW

    def map(self, function: Callable[[Tensor], Tensor]) -> Erasure:
        """Returns the same with what `function` makes of each tensor."""
        noise_key_B, color_C = (None if each is None else function(each) for each in (self.noise_key_B, self.color_C))
        return Erasure(function(self.box_B4), noise_key_B, color_C)


@dataclass(frozen=True)
class NoiseErasure:
    """A rectangle of some images that is filled with normal noise, which is looked up in a table of quantiles.

    Attributes:
        rows_R: the numbers of these images, which are known before the device has them.
        box_R4: each one's top, left, bottom and right in pixels.
        noise_key_R: the keys of its noise.
        table_CK: by channel the K equally probable values of a pixel.
        per_pixel: whether each pixel is drawn by itself, or a color for the whole rectangle.
    """

    rows_R: Tensor
    box_R4: Tensor
    noise_key_R: Tensor
    table_CK: Tensor
    per_pixel: bool

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Returns the images."""
        if not len(self.rows_R):
            return images_BCHW
        (channels, height, width), number = images_BCHW.shape[1:], len(self.rows_R)
        sides = (height, width) if self.per_pixel else (1, 1)
        drawn = random_bytes(self.noise_key_R, 2 * channels * math.prod(sides)).contiguous().view(torch.int16)
        quantile_CN = (drawn.long() & (_LEVELS - 1)).view(number, channels, -1).transpose(0, 1).flatten(1)
        noise = self.table_CK.expand(channels, -1).gather(1, quantile_CN).view(channels, number, *sides).transpose(0, 1)
        erased = images_BCHW[self.rows_R]
        return images_BCHW.index_copy(0, self.rows_R, torch.where(_inside(self.box_R4, erased), noise, erased))

    def map(self, function: Callable[[Tensor], Tensor]) -> NoiseErasure:
        """Returns the same with what `function` makes of each tensor."""
        rows_R, box_R4, noise_key_R, table_CK = map(function, (self.rows_R, self.box_R4, self.noise_key_R, self.table_CK))
        return NoiseErasure(rows_R, box_R4, noise_key_R, table_CK, self.per_pixel)


def draw_erasure(spec: specs.RandomErasing, keys: Keys, size: tuple[int, int]) -> Erasure | NoiseErasure:
    """Returns rectangles as torchvision draws them: the first of some attempts that is smaller than the image, at a random place."""
    drawn = uniforms(keys, 3 + 2 * spec.attempts)
    share, place_in_range = drawn[:, 3::2], drawn[:, 4::2]
    area = size[0] * size[1] * (spec.scale[0] + share * (spec.scale[1] - spec.scale[0]))
    lowest, highest = map(math.log, spec.ratio) if spec.log_ratio else spec.ratio
    ratio = lowest + place_in_range * (highest - lowest)
    ratio = np.exp(ratio) if spec.log_ratio else ratio
    heights, widths = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (heights < size[0]) & (widths < size[1])
    attempt_B1 = fits.argmax(axis=1)[:, None]
    height, width = (np.int64(np.take_along_axis(sides, attempt_B1, axis=1)[:, 0]) for sides in (heights, widths))
    is_erased = (drawn[:, 0] < spec.p) & fits.any(axis=1)
    top, left = (np.int64(drawn[:, 1] * (size[0] - height + 1)), np.int64(drawn[:, 2] * (size[1] - width + 1)))
    box_B4 = torch.from_numpy(np.stack([top, left, top + height, left + width], axis=1) * is_erased[:, None])
    if spec.value == "zero":
        return Erasure(box_B4)
    if isinstance(spec.value, tuple):
        return Erasure(box_B4, color_C=torch.tensor(spec.value, dtype=torch.uint8))
    noise_key_B = torch.from_numpy(derive_keys(keys, 1).view(np.int64))
    if spec.value == "random":
        return Erasure(box_B4, noise_key_B)
    assert spec.mean is not None, "`Data.filled_augment` has filled it in"
    assert spec.std is not None
    rows_R = torch.from_numpy(is_erased.nonzero()[0])
    table_CK = _quantiles(spec.mean, spec.std)
    return NoiseErasure(rows_R, box_B4[rows_R], noise_key_B[rows_R], table_CK, per_pixel=spec.value == "normal")


@lru_cache(maxsize=16)
def _quantiles(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Returns by channel the pixels, uint8 `[C, K]`, of K equally probable normal draws, of pixel values in 0 .. 1."""
    normal_K = torch.special.ndtri((torch.arange(_LEVELS, dtype=torch.float64) + 0.5) / _LEVELS)
    mean_C1, std_C1 = (torch.tensor(values, dtype=torch.float64)[:, None] for values in (mean, std))
    return (255 * (mean_C1 + std_C1 * normal_K)).round().clamp(0, 255).byte()


def _inside(box_B4: Tensor, images_BCHW: Tensor) -> Tensor:
    """Returns which pixels are in each image's rectangle, `[B, 1, H, W]`."""
    height, width = images_BCHW.shape[2:]
    rows = torch.arange(height, device=images_BCHW.device)[:, None]
    columns = torch.arange(width, device=images_BCHW.device)
    top, left, bottom, right = box_B4[:, :, None, None].unbind(1)
    return ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right))[:, None]
