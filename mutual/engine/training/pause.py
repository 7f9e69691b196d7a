"""PauseSelector: chooses the peer that skips an update as it is too far ahead of another (SwitOKD, arXiv:2209.04996)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.group import Communicator
from mutual.recipe import Pause


class PauseSelector:
    """Chooses, from the distances between predictions in an update's micro-batches, which peer pauses.

    Args:
        spec: the peer that may pause and the one that it is compared with; None if no peer ever pauses.
        comm: the ranks of the run.
    """

    def __init__(self, spec: Pause | None, comm: Communicator) -> None:
        self._spec = spec
        self._comm = comm
        self._sums = torch.zeros(3, device=comm.device)
        self._num_images = 0
        self._decisions: list[bool] = []

    @torch.no_grad()
    def add(self, logits: Mapping[str, Tensor], labels: Tensor) -> None:
        """Adds the logits `[B, C]` of a micro-batch's valid images by peer; those without a label (-1) are left out."""
        if self._spec is None:
            return
        labels = labels[: len(logits[self._spec.peer])]
        known = slice(None) if labels.is_floating_point() else labels >= 0
        ahead, behind = (F.softmax(logits[name][known] / self._spec.temperature, dim=1) for name in (self._spec.peer, self._spec.versus))
        targets = labels if labels.is_floating_point() else F.one_hot(labels[known], ahead.shape[1]).to(ahead.dtype)
        distances = [(a - b).abs().sum() for a, b in ((ahead, behind), (ahead, targets), (behind, targets))]
        self._sums += torch.stack(distances)
        self._num_images += len(targets)

    def select_paused_peer(self) -> str | None:
        """Returns the peer that pauses in this update, by the images of all ranks, or None. Collective: all ranks must call it."""
        if self._spec is None:
            return None
        num_images = torch.tensor([self._num_images], dtype=self._sums.dtype, device=self._sums.device)
        *sums, total = self._comm.all_reduce_sum(torch.cat([self._sums, num_images])).tolist()
        self._sums.zero_()
        self._num_images = 0
        gap, ahead, behind = (distance / max(total, 1) for distance in sums)
        pauses = gap > threshold(ahead, behind)
        self._decisions.append(pauses)
        return self._spec.peer if pauses else None

    def flush(self) -> dict[str, float]:
        """Returns by chart the fraction of the updates since the last call in which the peer paused."""
        if self._spec is None or not self._decisions:
            return {}
        fraction = sum(self._decisions) / len(self._decisions)
        self._decisions.clear()
        return {f"paused/{self._spec.peer}": fraction}


def threshold(ahead: float, behind: float) -> float:
    """Returns the widest gap at which the stronger peer still learns (arXiv:2209.04996, the adaptive switching threshold).

    Args:
        ahead: mean L1 distance of the stronger peer's predictions from the labels.
        behind: the same of the weaker peer.

    Example:
        >>> round(threshold(0.4, 1.2), 3)
        0.888
    """
    ratio = ahead / (ahead + behind) if ahead + behind > 0 else 0.0
    return behind - math.exp(-ratio) * ahead
