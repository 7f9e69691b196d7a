"""Several tensors as one vector: a module's BatchNorm statistics, say, and back."""

from __future__ import annotations

from collections.abc import Container, Iterable

import torch
from torch import Tensor, nn


def float_buffers(modules: Iterable[nn.Module], *, leave_out: Container[int] = ()) -> list[Tensor]:
    """Returns the floating-point buffers of `modules`, in a fixed order, but those whose ids are in `leave_out`."""
    return [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point() and id(buffer) not in leave_out]


def flatten(tensors: list[Tensor]) -> Tensor:
    """Returns all elements of `tensors` in one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def unflatten_(tensors: list[Tensor], vector: Tensor) -> None:
    """Writes the elements of `vector` back into `tensors`, in place."""
    with torch.no_grad():
        for tensor, part in zip(tensors, vector.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))
