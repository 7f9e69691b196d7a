"""TrainMeter: sums of losses and hits on the device, reduced and read once a logging interval.

Shapes: E edges, P trainable peers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from mutual.group import Communicator, Edge, EdgeLosses, GroupOutput
from mutual.recipe import RunError

_NEVER = torch.iinfo(torch.int64).max


class NonFiniteLossError(RunError):
    """A loss became infinite or not a number; the message names the peer, the objective and the step."""


@dataclass
class Totals:
    """Sums over images: the edges' unweighted losses, the peers' weighted losses, and the peers' hits among the `labelled` images."""

    edges: list[float]
    losses: list[float]
    correct: list[float]
    images: float = 0.0
    labelled: float = 0.0

    @classmethod
    def zero(cls, num_edges: int, num_peers: int) -> Totals:
        """Sums over no images."""
        return cls([0.0] * num_edges, [0.0] * num_peers, [0.0] * num_peers)

    def add(self, other: Totals) -> None:
        """Adds another interval's sums."""
        for name in ("edges", "losses", "correct"):
            setattr(self, name, [a + b for a, b in zip(getattr(self, name), getattr(other, name), strict=True)])
        self.images += other.images
        self.labelled += other.labelled


@dataclass(frozen=True)
class TrainMetrics:
    """Means over the images of an interval: by peer its weighted loss and top-1 fraction, by objective its loss."""

    images: float
    loss: dict[str, float]
    top1: dict[str, float]
    objectives: dict[str, float] = field(default_factory=dict)


class TrainMeter:
    """Adds up the losses and hits of micro-batches; nothing is copied from the device before `flush`.

    Args:
        edges: all edges of the group.
        peers: all trainable peers of the group.
        comm: the ranks of the run.
        is_scoring_rank: whether this rank counts the images that it sees.
    """

    def __init__(self, edges: Sequence[Edge], peers: Sequence[str], comm: Communicator, *, is_scoring_rank: bool = True) -> None:
        self._is_scoring_rank = is_scoring_rank
        self._edges = tuple(edges)
        self._peers = tuple(peers)
        self._comm = comm
        self._dtype = torch.float32 if comm.device.type == "mps" else torch.float64
        self.epoch = Totals.zero(len(edges), len(peers))
        self._positions: dict[tuple[tuple[int, ...], ...], Tensor] = {}
        self._clear()

    def _clear(self) -> None:
        device = self._comm.device
        self._edges_E = torch.zeros(len(self._edges), dtype=self._dtype, device=device)
        self._losses_P = torch.zeros(len(self._peers), dtype=self._dtype, device=device)
        self._correct_P = torch.zeros(len(self._peers), dtype=self._dtype, device=device)
        self._labelled = torch.zeros((), dtype=self._dtype, device=device)
        self._first_bad_E = torch.full((len(self._edges),), _NEVER, device=device)
        self._images = 0
        self._num_batches = 0

    @property
    def pending(self) -> bool:
        """True if something was added since the last flush; the same on all ranks."""
        return self._num_batches > 0

    @torch.no_grad()
    def add(self, output: GroupOutput, labels: Tensor, *, num_valid: int, update: int) -> None:
        """Adds the output for a micro-batch.

        Args:
            output: of the group.
            labels: `[B]` (-1: unknown) or `[B, C]`.
            num_valid: number of valid images; the rest are padding.
            update: its index in the training, for the message of a loss that is not finite.
        """
        edges_E = self._edges_in_order(output.edge_losses)
        losses_P = self._of_all_peers({name: loss.detach() for name, loss in output.losses.items()})
        if num_valid:  # a rank whose shard of a short window is empty computed on padding
            self._edges_E += edges_E * num_valid
            self._losses_P += losses_P * num_valid
            self._correct_P += self._of_all_peers(_num_correct({name: output.logits[name] for name in output.losses}, labels[:num_valid]))
            if self._is_scoring_rank:
                self._labelled += num_valid if labels.is_floating_point() else (labels[:num_valid] >= 0).sum()
            bad_E = torch.where(edges_E.isfinite(), _NEVER, update)
            self._first_bad_E = torch.minimum(self._first_bad_E, bad_E)
        self._images += num_valid if self._is_scoring_rank else 0
        self._num_batches += 1

    def _edges_in_order(self, edge_losses: EdgeLosses) -> Tensor:
        """Returns `[E]`: the losses of all edges, 0 for those that other ranks evaluate."""
        blocks = edge_losses.blocks
        key = tuple(indices for indices, _ in blocks)
        if key not in self._positions:
            order = {index: position for position, index in enumerate(index for indices in key for index in indices)}
            positions = [order.get(index, len(order)) for index in range(len(self._edges))]
            self._positions[key] = torch.tensor(positions, device=self._comm.device)
        nothing = torch.zeros(1, dtype=self._dtype, device=self._comm.device)
        return torch.cat([*(values.to(self._dtype) for _, values in blocks), nothing]).index_select(0, self._positions[key])

    def _of_all_peers(self, values: Mapping[str, Tensor]) -> Tensor:
        """Returns `[P]`: what is known of each peer, 0 for those that other ranks train."""
        if values.keys() == set(self._peers):
            return torch.stack([values[name] for name in self._peers]).to(self._dtype)
        nothing = torch.zeros((), dtype=self._dtype, device=self._comm.device)
        return torch.stack([values.get(name, nothing).to(self._dtype) for name in self._peers])

    def flush(self) -> TrainMetrics:
        """Returns the means over all ranks since the last flush, and adds them to the epoch's. Collective: all ranks must call it.

        Raises:
            NonFiniteLossError: some loss since the last flush was not finite.
        """
        num_images = torch.stack([torch.full_like(self._labelled, self._images), self._labelled])
        sums = self._comm.all_reduce_sum(torch.cat([self._edges_E, self._losses_P, self._correct_P, num_images])).tolist()
        first_bad = self._comm.all_reduce_min(self._first_bad_E).tolist()
        self._clear()
        if min(first_bad) != _NEVER:
            edge = self._edges[first_bad.index(min(first_bad))]
            raise NonFiniteLossError(
                f"step {min(first_bad) + 1}: the loss of peer {edge.learner!r} in objective {edge} is not finite; "
                "lower the learning rate, clip gradients (train.clip_grad_norm) or take precision bf16 or no"
            )
        num_edges, num_peers = len(self._edges), len(self._peers)
        interval = Totals(sums[:num_edges], sums[num_edges : num_edges + num_peers], sums[num_edges + num_peers : -2], *sums[-2:])
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
        """Restores what `state_dict` returned."""
        self.epoch = Totals(**state)

    def _means(self, totals: Totals) -> TrainMetrics:
        images, labelled = max(totals.images, 1), max(totals.labelled, 1)
        objectives: dict[str, list[float]] = {}
        for edge, loss_sum in zip(self._edges, totals.edges, strict=True):
            objectives.setdefault(edge.name, []).append(loss_sum / images)
        loss = {name: loss_sum / images for name, loss_sum in zip(self._peers, totals.losses, strict=True)}
        top1 = {name: correct / labelled for name, correct in zip(self._peers, totals.correct, strict=True)}
        return TrainMetrics(totals.images, loss, top1, {name: sum(means) / len(means) for name, means in objectives.items()})


def _num_correct(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Returns by peer how many of `labels` its logits `[B, C]` give most to; peers of equal dtype are counted together."""
    if len({each.dtype for each in logits.values()}) != 1:  # none on a rank that holds frozen peers alone
        return {name: is_correct(each.argmax(dim=1), labels).sum() for name, each in logits.items()}
    classes_PB = torch.stack(list(logits.values())).argmax(dim=2)
    return dict(zip(logits, is_correct(classes_PB, labels).sum(dim=1).unbind(), strict=True))


def is_correct(classes_B: Tensor, labels: Tensor) -> Tensor:
    """Returns `[..., B]`, True where the predicted class is the label, or a likeliest one of probabilities or flags `[B, C]`.

    Example:
        >>> is_correct(torch.tensor([0, 1]), torch.tensor([0, 2])).tolist()
        [True, False]
    """
    if not labels.is_floating_point():
        return classes_B == labels
    index = classes_B[..., None]
    return labels.expand(*classes_B.shape, -1).gather(-1, index)[..., 0] == labels.amax(dim=1)
