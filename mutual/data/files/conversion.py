"""to_pixels: images as Datasets give them, to what a decoded file becomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mutual.data.files.decoding import MAX_PIXELS, pixels, refusal

_FORMS = "arrays are [H, W] or [H, W, C], tensors [C, H, W], with 1 or 3 channels"


def to_pixels(image: object, channels: int) -> Tensor:
    """Returns an image as uint8 `[channels, H, W]`.

    Args:
        image: Pillow's, of which becomes what becomes of a file; an array `[H, W]` or `[H, W, C]`, or a tensor `[C, H, W]` or `[H, W]`, of
            uint8 or of floating-point numbers in 0 .. 1, which become the nearest of 256 steps.
        channels: 1 for grey, 3 for RGB.

    Raises:
        ValueError: it is nothing of that.
    """
    if isinstance(image, Image.Image):
        refused = refusal(image)
        if refused:
            raise ValueError(refused)
        return pixels(image, channels)
    if isinstance(image, np.ndarray):
        values = _of_array(image)
    elif isinstance(image, Tensor):
        values = image.detach().as_subclass(Tensor).cpu()
    else:
        raise ValueError(f"its image is of type {type(image).__name__}; give an image of Pillow's, a NumPy array or a tensor")
    if values.dim() == 2:
        values = values[None]
    if values.dim() != 3 or len(values) not in (1, 3) or values.numel() == 0:
        raise ValueError(f"its image is {_shape_of(image)}; {_FORMS}")
    if values[0].numel() > MAX_PIXELS:
        raise ValueError(f"its image is {_shape_of(image)}; at most {MAX_PIXELS:,} pixels are taken")
    return _with_channels(_as_bytes(values), channels)


def _of_array(image: np.ndarray[Any, Any]) -> Tensor:
    """Returns an array as a tensor `[C, H, W]` or `[H, W]`."""
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"its image is an array of {image.dtype}; give uint8, or floating-point numbers in 0 .. 1")
    values = torch.from_numpy(np.array(image))  # a copy: an array may be closed to writing
    return values.permute(2, 0, 1) if values.dim() == 3 else values


def _as_bytes(values: Tensor) -> Tensor:
    if values.dtype == torch.uint8:
        return values
    if not values.is_floating_point():
        dtype = str(values.dtype).removeprefix("torch.")
        raise ValueError(f"its image is a tensor of {dtype}; give uint8, or floating-point numbers in 0 .. 1")
    values = values.float()
    smallest, largest = (value.item() for value in torch.aminmax(values))
    if not (smallest >= 0 and largest <= 1):
        raise ValueError(
            f"its image has numbers from {smallest:g} to {largest:g}; give uint8, or numbers in 0 .. 1, which data.normalize normalises"
        )
    return (values * 255).round().to(torch.uint8)


def _with_channels(values: Tensor, channels: int) -> Tensor:
    if len(values) == channels:
        return values.contiguous()
    if channels == 3:
        return values.repeat(3, 1, 1)
    return pixels(Image.fromarray(values.permute(1, 2, 0).contiguous().numpy()), channels)


def _shape_of(image: object) -> str:
    kind = "an array" if isinstance(image, np.ndarray) else "a tensor"
    return f"{kind} of shape {list(image.shape)}"  # type: ignore[attr-defined]  # it is one of the two
