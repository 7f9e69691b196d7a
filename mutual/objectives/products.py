"""Operations of the losses that GPUs compute in full float32, deterministically and in fixed shapes: products, softmax, pooling.

Shapes: H and W height and width of maps.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Returns `a @ b`, with values and gradients in float32 at least: where a GPU may take TF32 for such products, float64 is taken."""
    return (a.double() @ b.double()).float() if _would_be_tf32(a) else a @ b


def einsum(equation: str, *factors: Tensor) -> Tensor:
    """Returns `torch.einsum`, as precise as `matmul`."""
    if _would_be_tf32(factors[0]):
        return torch.einsum(equation, *(factor.double() for factor in factors)).float()
    return torch.einsum(equation, *factors)


def _would_be_tf32(factor: Tensor) -> bool:
    if not factor.is_cuda or factor.dtype != torch.float32:
        return False
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", None)  # torch 2.9 on, where the other may raise
    return bool(torch.backends.cuda.matmul.allow_tf32) if precision is None else precision == "tf32"


def average_to_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns maps `[..., H, W]` averaged to `size` (height, width), as `adaptive_avg_pool2d` does; its gradient is deterministic."""
    height, width = maps.shape[-2:]
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(maps, (height // size[0], width // size[1]))
    return _by_axis(maps, _averaging(height, size[0], maps.dtype, maps.device), _averaging(width, size[1], maps.dtype, maps.device))


def interpolate_to_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns maps `[..., H, W]` at `size` (height, width), as bilinear `interpolate` does; its gradient is deterministic."""
    height, width = maps.shape[-2:]
    return _by_axis(maps, _interpolating(height, size[0], maps.dtype, maps.device), _interpolating(width, size[1], maps.dtype, maps.device))


def _by_axis(maps: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    """Returns `of_rows @ maps @ of_columns.T`."""
    return matmul(matmul(maps, of_columns.T).transpose(-2, -1), of_rows.T).transpose(-2, -1)


@lru_cache(maxsize=64)  # micro-batches need the same few again
def _averaging(num_in: int, num_out: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns `[num_out, num_in]`, the weights of adaptive average pooling: output i averages inputs i * in / out to (i + 1) * in / out."""
    outputs, inputs = torch.arange(num_out, device=device)[:, None], torch.arange(num_in, device=device)[None, :]
    begin, end = outputs * num_in // num_out, -(-(outputs + 1) * num_in // num_out)
    return ((inputs >= begin) & (inputs < end)).to(dtype) / (end - begin).to(dtype)


@lru_cache(maxsize=64)
def _interpolating(num_in: int, num_out: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns `[num_out, num_in]`, the weights of linear interpolation between the centres of pixels (`align_corners=False`)."""
    outputs, inputs = torch.arange(num_out, dtype=dtype, device=device)[:, None], torch.arange(num_in, dtype=dtype, device=device)[None, :]
    position = ((outputs + 0.5) * num_in / num_out - 0.5).clamp(0, num_in - 1)
    return (1 - (position - inputs).abs()).clamp(min=0)
