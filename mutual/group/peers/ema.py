"""MovingAverage: an exponential moving average of a model's weights, which can be a source."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mutual.group.communication import float_buffers
from mutual.group.peers.taps import TappedModel


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

    @property
    def model(self) -> nn.Module:
        """The averaged model without taps."""
        return self.tapped.model

    @torch.no_grad()
    def update(self, model: nn.Module, *, update: int) -> None:
        """Moves the average towards `model` by 1 - decay, after the step of `update` (0 is the first)."""
        decay = min(self._decay, 1 - 1 / (update + 1)) if self._warmup else self._decay
        averages = [*self.model.parameters(), *float_buffers([self.model])]
        values = [*model.parameters(), *float_buffers([model])]
        get_ema_multi_avg_fn(decay)(averages, values, 0)
