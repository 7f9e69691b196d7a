"""Buffers of modules in lists that are made once: BatchNorm statistics, vectors of spectral norms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

BufferSlot = tuple[nn.Module, str]
"""A module and the name of one of its buffers; the tensor there may be replaced, as by `to`."""


def buffer_slots(modules: Iterable[nn.Module]) -> list[BufferSlot]:
    """Returns where `modules`, without their children, have a buffer."""
    return [(module, name) for module in modules for name, _ in module.named_buffers(recurse=False)]


def copies_of(slots: Sequence[BufferSlot]) -> list[Tensor]:
    """Returns copies of the buffers."""
    return [getattr(module, name).clone() for module, name in slots]


@contextmanager
def replaced_buffers(slots: Sequence[BufferSlot], values: Sequence[Tensor]) -> Iterator[None]:
    """Context in which the buffers are `values`, which a forward may write to."""
    current = [module._buffers[name] for module, name in slots]
    for (module, name), value in zip(slots, values, strict=True):
        module._buffers[name] = value
    try:
        yield
    finally:
        for (module, name), buffer in zip(slots, current, strict=True):
            module._buffers[name] = buffer
