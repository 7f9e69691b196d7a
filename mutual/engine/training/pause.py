"""PauseSelector: whether a peer skips an update as it is too far ahead of another (SwitOKD, arXiv:2209.04996).

The decision is made on the device, so that the host need not wait for it. Shapes: B images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.group import Communicator
from mutual.recipe import Pause


class PauseSelector:
    """Decides, from the distances between predictions in an update's micro-batches, whether a peer pauses.

    Args:
        spec: the peer that may pause and the one that it is compared with; None if no peer ever pauses.
        comm: the ranks of the run.
    """

    def __init__(self, spec: Pause | None, comm: Communicator) -> None:
        self._spec = spec
        self._comm = comm
        self._dtype = torch.float32 if comm.device.type == "mps" else torch.float64
        self._sums = torch.zeros(4, device=comm.device)
        self._num_paused = torch.zeros((), dtype=torch.int64, device=comm.device)
        self._num_updates = 0

    @torch.no_grad()
    def add(self, logits: Mapping[str, Tensor], labels: Tensor) -> None:
        """Adds the logits `[B, C]` of a micro-batch's valid images by peer; those without a label (-1) are left out."""
        if self._spec is None:
            return
        ahead, behind = (F.softmax(logits[name] / self._spec.temperature, dim=1) for name in (self._spec.peer, self._spec.versus))
        labels = labels[: len(ahead)]
        if labels.is_floating_point():
            targets, is_known_B = labels, torch.ones_like(labels[:, 0], dtype=torch.bool)
        else:
            targets = (labels[:, None] == torch.arange(ahead.shape[1], device=labels.device)).to(ahead.dtype)
            is_known_B = labels >= 0
        distances = [(a - b).abs() * is_known_B[:, None] for a, b in ((ahead, behind), (ahead, targets), (behind, targets))]
        self._sums += torch.stack([*(distance.sum() for distance in distances), is_known_B.sum()])

    @torch.no_grad()
    def decide(self) -> dict[str, Tensor]:
        """Returns by the peer that may pause whether it does in this update, by the images of all ranks, as a flag on the device.

        Collective: all ranks must call it, and obtain the same.
        """
        if self._spec is None:
            return {}
        *sums, num_images = self._comm.all_reduce_sum(self._sums).to(self._dtype)
        self._sums.zero_()
        gap, ahead, behind = (distance / num_images.clamp(min=1) for distance in sums)
        pauses = gap > threshold(ahead, behind)
        self._num_paused += pauses
        self._num_updates += 1
        return {self._spec.peer: pauses}

    def flush(self) -> dict[str, float]:
        """Returns by chart the fraction of the updates since the last call in which the peer paused."""
        if self._spec is None or not self._num_updates:
            return {}
        fraction = self._num_paused.item() / self._num_updates
        self._num_paused.zero_()
        self._num_updates = 0
        return {f"paused/{self._spec.peer}": fraction}


def threshold(ahead: Tensor, behind: Tensor) -> Tensor:
    """Returns the widest gap at which the stronger peer still learns (arXiv:2209.04996, the adaptive switching threshold).

    Args:
        ahead: mean L1 distance of the stronger peer's predictions from the labels.
        behind: the same of the weaker peer.

    Example:
        >>> threshold(torch.tensor(0.4), torch.tensor(1.2))
        tensor(0.8885)
    """
    both = ahead + behind
    ratio = torch.where(both > 0, ahead / both, 0.0)
    return behind - torch.exp(-ratio) * ahead
