"""Where modules hold their tensors, in lists that are made once: a step that walks through the modules takes longer than its arithmetic.

A slot stays true where the tensor in it is replaced, as by `to` or by loading with `assign`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

TensorSlot = tuple[dict[str, Any], str]
"""The parameters or buffers of one module by their names, and a name."""


def buffer_slots(modules: Iterable[nn.Module]) -> list[TensorSlot]:
    """Returns a slot for each buffer of `modules`, those of their children left out."""
    return _slots(module._buffers for module in modules)


def parameter_slots(modules: Iterable[nn.Module]) -> list[TensorSlot]:
    """Returns a slot for each parameter of `modules`, those of their children left out."""
    return _slots(module._parameters for module in modules)


def tensors_in(slots: Iterable[TensorSlot]) -> list[Tensor]:
    """Returns the tensors that the slots hold now."""
    return [holder[name] for holder, name in slots]


def copies_of(slots: Iterable[TensorSlot]) -> list[Tensor]:
    """Returns copies of the tensors that the slots hold now."""
    return [holder[name].clone() for holder, name in slots]


@contextmanager
def replaced(slots: Sequence[TensorSlot], values: Sequence[Tensor]) -> Iterator[None]:
    """Context in which the slots hold `values`, which a forward may write to in place of the tensors that are there."""
    current = tensors_in(slots)
    for (holder, name), value in zip(slots, values, strict=True):
        holder[name] = value
    try:
        yield
    finally:
        for (holder, name), tensor in zip(slots, current, strict=True):
            holder[name] = tensor


def _slots(holders: Iterable[dict[str, Any]]) -> list[TensorSlot]:
    """Returns the slots that hold a tensor; one that several hold is named once."""
    slots: dict[int, TensorSlot] = {}
    for holder in holders:
        for name, tensor in holder.items():
            if tensor is not None:
                slots.setdefault(id(tensor), (holder, name))
    return list(slots.values())
