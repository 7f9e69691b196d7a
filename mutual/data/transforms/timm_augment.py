"""TimmAugment: timm's RandAugment, AutoAugment and AugMix for one image, with the generators that they draw from seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch
from packaging.version import Version
from PIL import Image
from timm.data import auto_augment
from torch import Tensor, nn

from mutual.data.seeding import seeded_generators
from mutual.data.transforms.regions import ShapeError
from mutual.recipe import transforms as specs

_TRANSLATED = 0.45  # of the shorter side, as timm's own transforms for training have it
_AUGMIX_TRANSLATED = 0.3
_MIXES_ALL_SHAPES = "1.0.30"
"""The first timm whose AugMix, where it does not blend (`-b1`), takes images that are grey or not square."""
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class TimmAugment(nn.Module):
    """What timm makes of a configuration string; draws its seed from torch's default generator, which who calls it has seeded.

    Args:
        spec: the recipe's.
        image_size: height and width of the images.
    """

    def __init__(self, spec: specs.TimmAugment, image_size: tuple[int, int]) -> None:
        super().__init__()
        self._p = spec.p
        parts = spec.config.split("-")
        is_limited = parts[0] == "augmix" and "b1" not in parts and Version(timm.__version__) < Version(_MIXES_ALL_SHAPES)
        self._limited = spec.config if is_limited else None
        fill = spec.fill or (128,)
        self._of_channels = {channels: _build(spec, image_size, (fill * channels)[:channels]) for channels in (1, 3)}
        for transform in self._of_channels.values():
            for operation in _operations(transform):
                if operation.aug_fn is auto_augment.posterize:
                    operation.aug_fn = _posterize

    def forward(self, image: Tensor) -> Tensor:
        """Returns the image, uint8 `[C, H, W]`.

        Raises:
            ShapeError: an old timm's AugMix does not take its shape.
        """
        if self._p < 1 and float(torch.rand(())) >= self._p:
            return image
        channels, height, width = image.shape
        if self._limited and (channels == 1 or height != width):
            raise ShapeError(
                f"timm {timm.__version__} mixes square images in colour alone by {self._limited!r}; take {self._limited + '-b1'!r}, "
                f"or timm from {_MIXES_ALL_SHAPES} on"
            )
        pixels = image.permute(1, 2, 0).numpy()
        drawn = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels))
        with seeded_generators(int(torch.randint(2**63 - 1, ()))):
            result = np.array(self._of_channels[channels](drawn))
        return torch.from_numpy(result.reshape(*result.shape[:2], channels)).permute(2, 0, 1).contiguous()


def _build(spec: specs.TimmAugment, image_size: tuple[int, int], fill: tuple[int, ...]) -> Any:
    arguments: dict[str, Any] = {"translate_const": int(min(image_size) * _TRANSLATED), "img_mean": fill if len(fill) > 1 else fill[0]}
    if spec.interpolation != "random":
        arguments["interpolation"] = _RESAMPLING[spec.interpolation]
    if spec.config.startswith("rand"):
        return auto_augment.rand_augment_transform(spec.config, arguments, spec.ops and list(spec.ops))
    if spec.config.startswith("augmix"):
        return auto_augment.augment_and_mix_transform(spec.config, {**arguments, "translate_pct": _AUGMIX_TRANSLATED})
    return auto_augment.auto_augment_transform(spec.config, arguments)


def _operations(transform: Any) -> list[Any]:
    if isinstance(transform, auto_augment.AutoAugment):
        return [operation for operations in transform.policy for operation in operations]
    return list(transform.ops)


def _posterize(image: Image.Image, bits_to_keep: int, **arguments: Any) -> Image.Image:
    """timm's, but black where no bit is kept, which its increasing magnitudes ask for: Pillow from 13 on raises there."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **arguments)
