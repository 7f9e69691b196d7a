"""Regions: which rectangle of an image is brought to which size, known before it is decoded, so that a large JPEG is decoded smaller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from mutual.data.files.decoding import MAX_PIXELS, ImageSource
from mutual.data.transforms.augmentation import height_and_width
from mutual.recipe import transforms as specs

NUM_DRAWS = 22
"""Random numbers in [0, 1) from which a random rectangle is made: its place, and the area and the ratio of ten attempts."""
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class ShapeError(ValueError):
    """An image has a shape of which a transform would make something far too large."""


@dataclass(frozen=True)
class Region:
    """A rectangle of an image, in pixels, and the height and width that it is brought to."""

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]
    interpolation: specs.Interpolation

    def read(self, source: ImageSource) -> Tensor:
        """Returns it, uint8 `[C, *size]`; decoded at the smallest fraction of its size at which the rectangle is no smaller than `size`.

        At its whole size it is what torchvision makes of the decoded image. Where it is decoded at a fraction, that is the mean of some of
        the pixels which the resize would take the mean of.

        Raises:
            ImageError: the image cannot be read.
        """
        resample = _RESAMPLING.get(self.interpolation)
        for scale in source.scales:
            if resample is not None and scale > 1 and self.height >= scale * self.size[0] and self.width >= scale * self.size[1]:
                box = (self.top, self.left, self.top + self.height, self.left + self.width)
                return source.reduced(scale, box, self.size, resample)
        pixels = source.rectangle(self.top, self.left, self.height, self.width)
        from torchvision.transforms.v2 import InterpolationMode  # seconds, which not everybody needs
        from torchvision.transforms.v2.functional import resize_image

        resized: Tensor = resize_image(pixels, list(self.size), interpolation=InterpolationMode(self.interpolation))
        return resized


class RegionPlan:
    """Which region of each image a transform takes that begins a recipe's list: a resize or a random_resized_crop.

    Args:
        spec: the transform.
        image_size: height and width of what it gives without a size of its own.

    Attributes:
        is_random: whether it is drawn.
    """

    def __init__(self, spec: specs.Resize | specs.RandomResizedCrop, image_size: tuple[int, int]) -> None:
        self._spec = spec
        self._image_size = image_size
        self.is_random = isinstance(spec, specs.RandomResizedCrop)

    def __call__(self, height: int, width: int, draws: Sequence[float] = ()) -> Region:
        """Returns the region of an image of this size; `draws`: NUM_DRAWS random numbers in [0, 1), where it is drawn.

        Raises:
            ShapeError: the image would become far too large.
        """
        spec = self._spec
        if isinstance(spec, specs.RandomResizedCrop):
            top, left, height, width = _draw_rectangle(spec, height, width, draws)
            return Region(top, left, height, width, height_and_width(spec.size, self._image_size), spec.interpolation)
        size = height_and_width(spec.size, self._image_size)
        if spec.mode == "shorter":
            size = shorter_size(height, width, min(size))
        return Region(0, 0, height, width, size, spec.interpolation)


def plan_of(first: specs.Transform, image_size: tuple[int, int]) -> RegionPlan | None:
    """Returns the plan of a list's first transform, or None where it takes no region."""
    return RegionPlan(first, image_size) if isinstance(first, specs.Resize | specs.RandomResizedCrop) else None


def shorter_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns the height and width of an image whose shorter side is brought to `side`.

    Raises:
        ShapeError: they are too many pixels; a strip of 1 x 60,000 pixels would become gigabytes.
    """
    longer = side * max(height, width) // min(height, width)
    if side * longer > MAX_PIXELS:
        raise ShapeError(f"it has {width:,} x {height:,} pixels; with its shorter side brought to {side} it would have too many")
    return (side, longer) if height <= width else (longer, side)


def _draw_rectangle(spec: specs.RandomResizedCrop, height: int, width: int, draws: Sequence[float]) -> tuple[int, int, int, int]:
    """Returns top, left, height and width as torchvision draws them: the first of ten attempts that fits, or else one in the middle."""
    lowest, highest = map(math.log, spec.ratio)
    for share, log_ratio in zip(draws[2::2], draws[3::2], strict=True):
        area = height * width * (spec.scale[0] + share * (spec.scale[1] - spec.scale[0]))
        ratio = math.exp(lowest + log_ratio * (highest - lowest))
        own_height, own_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < own_height <= height and 0 < own_width <= width:
            return int(draws[0] * (height - own_height + 1)), int(draws[1] * (width - own_width + 1)), own_height, own_width
    ratio = min(max(width / height, spec.ratio[0]), spec.ratio[1])
    own_height, own_width = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
    return (height - own_height) // 2, (width - own_width) // 2, own_height, own_width
