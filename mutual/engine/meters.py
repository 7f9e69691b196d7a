"""Meters of training: sums on the device, brought together and read once a logging interval.

Shapes: E edges, P trainable peers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from mutual.group import Edge, World

_NEVER = torch.iinfo(torch.int64).max


class NonFiniteLossError(RuntimeError):
    """A loss became infinite or not a number; the message names the peer, the objective and the step."""


@dataclass
class Totals:
    """Sums over images: `losses` of the edges (unweighted) and `correct` predictions of the trainable peers."""

    losses: list[float]
    correct: list[float]
    images: float = 0.0

    @classmethod
    def zero(cls, num_edges: int, num_peers: int) -> Totals:
        """Sums over no images."""
        return cls([0.0] * num_edges, [0.0] * num_peers)

    def add(self, other: Totals) -> None:
        """Adds another interval's sums."""
        self.losses = [mine + theirs for mine, theirs in zip(self.losses, other.losses, strict=True)]
        self.correct = [mine + theirs for mine, theirs in zip(self.correct, other.correct, strict=True)]
        self.images += other.images


@dataclass(frozen=True)
class TrainMetrics:
    """Means over the images of an interval: by peer its weighted loss and top-1 fraction, by objective its loss."""

    images: float
    loss: dict[str, float]
    top1: dict[str, float]
    objectives: dict[str, float] = field(default_factory=dict)


class TrainMeter:
    """Collects what each micro-batch gave; nothing is copied from the device before `flush`."""

    def __init__(self, edges: Sequence[Edge], peers: Sequence[str], world: World) -> None:
        self._edges = tuple(edges)
        self._peers = tuple(peers)
        self._world = world
        self._dtype = torch.float32 if world.device.type == "mps" else torch.float64
        self.epoch = Totals.zero(len(edges), len(peers))
        self._clear()

    def _clear(self) -> None:
        device = self._world.device
        self._losses_E = torch.zeros(len(self._edges), dtype=self._dtype, device=device)
        self._correct_P = torch.zeros(len(self._peers), dtype=self._dtype, device=device)
        self._first_bad_E = torch.full((len(self._edges),), _NEVER, device=device)
        self._images = 0
        self._num_batches = 0

    @property
    def pending(self) -> bool:
        """True if something was added since the last flush; the same on every process."""
        return self._num_batches > 0

    @torch.no_grad()
    def add(self, values: Mapping[int, Tensor], logits: Mapping[str, Tensor], labels: Tensor, *, count: int, update: int) -> None:
        """Adds a micro-batch of `count` real images: every edge's loss, every trainable peer's logits `[count, C]`."""
        losses_E = torch.stack([values[index] for index in range(len(self._edges))]).to(self._dtype)
        truth = (labels.argmax(dim=1) if labels.is_floating_point() else labels)[:count]
        correct_P = torch.stack([(logits[name].argmax(dim=1) == truth).sum() for name in self._peers])
        if count:  # a rank whose part of a short window is empty computed on padding
            self._losses_E += losses_E * count
            self._correct_P += correct_P
            bad_E = torch.where(losses_E.isfinite(), _NEVER, update)
            self._first_bad_E = torch.minimum(self._first_bad_E, bad_E)
        self._images += count
        self._num_batches += 1

    def flush(self) -> TrainMetrics:
        """Returns the means since the last flush over all processes, and adds them to the epoch's; every process must call it.

        Raises:
            NonFiniteLossError: some loss since the last flush was not finite.
        """
        images = torch.tensor([self._images], dtype=self._dtype, device=self._world.device)
        sums = self._world.sum(torch.cat([self._losses_E, self._correct_P, images])).tolist()
        first_bad = self._world.min(self._first_bad_E).tolist()
        self._clear()
        if min(first_bad) != _NEVER:
            edge = self._edges[first_bad.index(min(first_bad))]
            raise NonFiniteLossError(
                f"step {min(first_bad) + 1}: the loss of peer {edge.learner!r} in objective {edge} is not finite; "
                "lower the learning rate, clip gradients (train.clip_grad_norm) or take precision bf16 or no"
            )
        split = len(self._edges)
        interval = Totals(sums[:split], sums[split:-1], sums[-1])
        self.epoch.add(interval)
        return self._means(interval)

    def end_epoch(self) -> TrainMetrics:
        """Returns the means of the epoch, which must have been flushed, and begins the next."""
        metrics = self._means(self.epoch)
        self.epoch = Totals.zero(len(self._edges), len(self._peers))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Returns the epoch's sums so far (flushed)."""
        return asdict(self.epoch)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self.epoch = Totals(**state)

    def _means(self, totals: Totals) -> TrainMetrics:
        images = max(totals.images, 1)
        mean_losses = [total / images for total in totals.losses]
        loss = dict.fromkeys(self._peers, 0.0)
        objectives: dict[str, list[float]] = {}
        for edge, mean in zip(self._edges, mean_losses, strict=True):
            loss[edge.learner] += edge.weight * mean
            objectives.setdefault(edge.objective, []).append(mean)
        top1 = {name: correct / images for name, correct in zip(self._peers, totals.correct, strict=True)}
        return TrainMetrics(totals.images, loss, top1, {name: sum(means) / len(means) for name, means in objectives.items()})
