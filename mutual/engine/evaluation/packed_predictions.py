"""Predictions in few bytes: classes as the smallest integers, flags of several labels as bits; 0 says that there is none.

Shapes: B images, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 8


def pack(predictions: Tensor, num_classes: int) -> Tensor:
    """Returns predictions, classes `[B]` or flags `[B, C]`, as integers `[B]` or bytes `[B, ceil((C + 1) / 8)]`.

    Example:
        >>> pack(torch.tensor([0, 6]), num_classes=7)
        tensor([1, 7], dtype=torch.uint8)
        >>> pack(torch.tensor([[True, False, True]]), num_classes=3)
        tensor([[11]], dtype=torch.uint8)
    """
    if predictions.dim() == 1:
        return (predictions + 1).to(empty(0, num_classes, multi_label=False).dtype)
    num_bytes = -(-(num_classes + 1) // _BITS)
    bits = predictions.new_zeros(len(predictions), num_bytes * _BITS, dtype=torch.uint8)
    bits[:, 0] = 1  # there is a prediction
    bits[:, 1 : num_classes + 1] = predictions
    return (bits.view(-1, num_bytes, _BITS) << _shifts(bits.device)).sum(dim=2, dtype=torch.uint8)


def unpack(packed: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Returns the predictions that `pack` was given, and flags `[B]` of the images that have one."""
    if packed.dim() == 1:
        return packed.long() - 1, packed > 0
    bits = (packed[:, :, None] >> _shifts(packed.device)) & 1
    flags = bits.flatten(start_dim=1).bool()
    return flags[:, 1 : num_classes + 1], flags[:, 0]


def empty(num_images: int, num_classes: int, *, multi_label: bool, device: torch.device | None = None) -> Tensor:
    """Returns room for the packed predictions of `num_images` images, none of which has one."""
    if multi_label:
        return torch.zeros(num_images, -(-(num_classes + 1) // _BITS), dtype=torch.uint8, device=device)
    dtype = next(dtype for dtype in (torch.uint8, torch.int16, torch.int32) if num_classes <= torch.iinfo(dtype).max)
    return torch.zeros(num_images, dtype=dtype, device=device)


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(_BITS, dtype=torch.uint8, device=device)
