"""The transforms that a recipe may name, built of torchvision.transforms.v2 or of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from mutual.data.transforms.augmentation import CountedTransforms, height_and_width
from mutual.data.transforms.own import OwnTransform
from mutual.data.transforms.regions import shorter_size
from mutual.recipe import transforms as specs

_ATTEMPTS = 10  # of torchvision's random erasing
_INTERPOLATION = {
    "nearest": v2.InterpolationMode.NEAREST,
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
}


class _ResizeIfNeeded(v2.Resize):
    """Leaves images alone that have the size already."""

    def forward(self, image: Tensor) -> Tensor:
        """Returns the image at the size."""
        if tuple(image.shape[-2:]) == tuple(self.size):
            return image
        resized: Tensor = super().forward(image)
        return resized


class _ShorterResize(v2.Resize):
    """Brings the shorter side to a size, and refuses what would become far too large."""

    def forward(self, image: Tensor) -> Tensor:
        """Returns the image at the size."""
        height, width = image.shape[-2:]
        shorter_size(height, width, int(self.size[0]))
        resized: Tensor = super().forward(image)
        return resized


def _resize(spec: specs.Resize, image_size: tuple[int, int]) -> nn.Module:
    interpolation = _INTERPOLATION[spec.interpolation]
    if spec.mode == "exact":
        return _ResizeIfNeeded(height_and_width(spec.size, image_size), interpolation=interpolation)
    size = spec.size if spec.size is not None else min(image_size)
    return _ShorterResize(min(size) if isinstance(size, tuple) else size, interpolation=interpolation)


def _random_resized_crop(spec: specs.RandomResizedCrop, image_size: tuple[int, int]) -> nn.Module:
    size = height_and_width(spec.size, image_size)
    return v2.RandomResizedCrop(size, scale=spec.scale, ratio=spec.ratio, interpolation=_INTERPOLATION[spec.interpolation])


def _random_crop(spec: specs.RandomCrop, image_size: tuple[int, int]) -> nn.Module:
    return v2.RandomCrop(height_and_width(spec.size, image_size), padding=spec.padding, padding_mode=spec.padding_mode)


def _timm_augment(spec: specs.TimmAugment, image_size: tuple[int, int]) -> nn.Module:
    from mutual.data.transforms.timm_augment import TimmAugment  # timm takes seconds to import, and most recipes name no such transform

    return TimmAugment(spec, image_size)


def _blur(spec: specs.GaussianBlur, _: tuple[int, int]) -> nn.Module:
    if spec.kernel_size % 2 == 0:
        raise ValueError(f"gaussian_blur: kernel_size {spec.kernel_size} is even; take an odd one")
    return v2.RandomApply([v2.GaussianBlur(spec.kernel_size, sigma=spec.sigma)], p=spec.p)


def _color_jitter(spec: specs.ColorJitter, _: tuple[int, int]) -> nn.Module:
    jitter = v2.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
    return jitter if spec.p == 1 else v2.RandomApply([jitter], p=spec.p)


def _erasing(spec: specs.RandomErasing, size: tuple[int, int]) -> nn.Module:
    if spec.value not in ("zero", "random") or spec.attempts != _ATTEMPTS or not spec.log_ratio:
        return _OneCounted(spec, size)
    return v2.RandomErasing(spec.p, scale=spec.scale, ratio=spec.ratio, value=0) if spec.value == "zero" else _NoiseErasing(spec)


class _NoiseErasing(nn.Module):
    """Random erasing with uniform noise, for uint8 images (v2's own draws normal noise, which uint8 cannot hold)."""

    def __init__(self, spec: specs.RandomErasing) -> None:
        super().__init__()
        self._mask = v2.RandomErasing(spec.p, scale=spec.scale, ratio=spec.ratio, value=1)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the image, perhaps with a rectangle of noise."""
        erased = self._mask(torch.zeros_like(image)).bool()
        noise = torch.randint(0, 256, image.shape, dtype=torch.uint8)
        return torch.where(erased, noise, image)


class _OneCounted(nn.Module):
    """A transform that is drawn by counting, for one image, whose key is drawn from torch's default generator."""

    def __init__(self, spec: specs.Transform, image_size: tuple[int, int]) -> None:
        super().__init__()
        self._counted = CountedTransforms([spec], 0, image_size)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the image, perhaps changed."""
        return self._counted(image[None], torch.randint(2**63 - 1, (1,)).numpy().view(np.uint64))[0]


_POLICIES = {
    "imagenet": v2.AutoAugmentPolicy.IMAGENET,
    "cifar10": v2.AutoAugmentPolicy.CIFAR10,
    "svhn": v2.AutoAugmentPolicy.SVHN,
}
BUILDERS: dict[type[Any], Callable[[Any, tuple[int, int]], nn.Module]] = {
    specs.Resize: _resize,
    specs.CenterCrop: lambda spec, size: v2.CenterCrop(height_and_width(spec.size, size)),
    specs.RandomResizedCrop: _random_resized_crop,
    specs.RandomCrop: _random_crop,
    specs.HorizontalFlip: lambda spec, _: v2.RandomHorizontalFlip(spec.p),
    specs.VerticalFlip: lambda spec, _: v2.RandomVerticalFlip(spec.p),
    specs.HalfTurn: _OneCounted,
    specs.Rotation: lambda spec, _: v2.RandomRotation(spec.degrees, interpolation=_INTERPOLATION[spec.interpolation]),
    specs.GaussianBlur: _blur,
    specs.ColorJitter: _color_jitter,
    specs.TrivialAugment: lambda spec, _: v2.TrivialAugmentWide(spec.num_magnitude_bins),
    specs.RandAugment: lambda spec, _: v2.RandAugment(spec.num_ops, spec.magnitude),
    specs.AutoAugment: lambda spec, _: v2.AutoAugment(_POLICIES[spec.policy]),
    specs.TimmAugment: _timm_augment,
    specs.RandomErasing: _erasing,
    specs.UsersTransform: lambda spec, _: OwnTransform(spec.name, spec.args),
}
