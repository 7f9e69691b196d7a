"""PauseSelector: which peer sits an update out because it is too far ahead of another (SwitOKD, arXiv:2209.04996)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.group import Communicator
from mutual.recipe import Pause


class PauseSelector:
    """Adds up the distances of an update's micro-batches; with no `spec` nobody ever pauses."""

    def __init__(self, spec: Pause | None, comm: Communicator) -> None:
        self._spec = spec
        self._comm = comm
        self._sums = torch.zeros(3, device=comm.device)
        self._count = 0
        self._decisions: list[bool] = []

    @torch.no_grad()
    def add(self, logits: Mapping[str, Tensor], labels: Tensor) -> None:
        """Adds the logits `[count, C]` of a micro-batch's real images, of which those without a label (-1) say nothing."""
        if self._spec is None:
            return
        labels = labels[: len(logits[self._spec.peer])]
        known = slice(None) if labels.is_floating_point() else labels >= 0
        ahead, behind = (F.softmax(logits[name][known] / self._spec.temperature, dim=1) for name in (self._spec.peer, self._spec.versus))
        truth = labels if labels.is_floating_point() else F.one_hot(labels[known], ahead.shape[1]).to(ahead.dtype)
        distances = [(a - b).abs().sum() for a, b in ((ahead, behind), (ahead, truth), (behind, truth))]
        self._sums += torch.stack(distances)
        self._count += len(truth)

    def select_paused_peer(self) -> str | None:
        """Returns the peer that pauses in this update, by the images of all processes, or None; every process must call it."""
        if self._spec is None:
            return None
        count = torch.tensor([self._count], dtype=self._sums.dtype, device=self._sums.device)
        *sums, images = self._comm.all_reduce_sum(torch.cat([self._sums, count])).tolist()
        self._sums.zero_()
        self._count = 0
        gap, ahead, behind = (total / max(images, 1) for total in sums)
        pauses = gap > threshold(ahead, behind)
        self._decisions.append(pauses)
        return self._spec.peer if pauses else None

    def flush(self) -> dict[str, float]:
        """Returns the share of the updates since the last call in which the peer paused, by the name of its chart."""
        if self._spec is None or not self._decisions:
            return {}
        share = sum(self._decisions) / len(self._decisions)
        self._decisions.clear()
        return {f"paused/{self._spec.peer}": share}


def threshold(ahead: float, behind: float) -> float:
    """Returns the widest gap at which the stronger peer still learns (arXiv:2209.04996, the adaptive switching threshold).

    `ahead` and `lagging_ranks` are the mean L1 distances of the stronger and of the weaker peer's predictions from the labels.
    """
    ratio = ahead / (ahead + behind) if ahead + behind > 0 else 0.0
    return behind - math.exp(-ratio) * ahead
