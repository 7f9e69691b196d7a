"""MovingAverage: an exponential moving average of a model's weights, which can be a source."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cached_property

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mutual.group.peers.taps import TappedModel
from mutual.group.peers.tensor_slots import TensorSlot, buffer_slots, parameter_slots, tensors_in


class MovingAverage:
    """An exponential moving average of a model's parameters and floating-point buffers, run in eval mode.

    Args:
        model: the model, which is copied.
        decay: weight of the average in an update; the model has the rest.
        warmup: the decay of update t is at most 1 - 1/t.
        paths: module paths that are tapped.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: bool = False, paths: Iterable[str] = ()) -> None:
        self.tapped = TappedModel(copy.deepcopy(model).requires_grad_(False), paths).eval()
        self._decay = decay
        self._warmup = warmup
        self._source: tuple[nn.Module, list[TensorSlot]] | None = None

    @property
    def model(self) -> nn.Module:
        """The averaged model without taps."""
        return self.tapped.model

    @torch.no_grad()
    def update(self, model: nn.Module, *, update: int) -> None:
        """Moves the average towards `model` by 1 - decay, after the step of `update` (0 is the first)."""
        decay = min(self._decay, 1 - 1 / (update + 1)) if self._warmup else self._decay
        get_ema_multi_avg_fn(decay)(tensors_in(self._slots), tensors_in(self._slots_of(model)), 0)

    @cached_property
    def _slots(self) -> list[TensorSlot]:
        return _averaged_slots(self.model)

    def _slots_of(self, model: nn.Module) -> list[TensorSlot]:
        """Returns the slots of the tensors in `model` that are averaged; in every update it is the same one."""
        if self._source is None or self._source[0] is not model:
            self._source = model, _averaged_slots(model)
        return self._source[1]


def _averaged_slots(model: nn.Module) -> list[TensorSlot]:
    modules = list(model.modules())
    return [*parameter_slots(modules), *(slot for slot in buffer_slots(modules) if slot[0][slot[1]].is_floating_point())]
