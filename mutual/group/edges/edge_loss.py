"""EdgeLoss: an edge with its loss: which images it reads, what its sources say of them, and the scalar that the learner minimises.

Shapes: B images of this process' micro-batch (padding included), R rows of them that the edge reads, K peers, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.data import shard_bounds
from mutual.group.communication import Communicator
from mutual.group.edges.edge import Edge, distances_key
from mutual.group.edges.weight_schedule import Factor
from mutual.group.peers import Outputs
from mutual.objectives import ENSEMBLES, Loss
from mutual.recipe import ENSEMBLE, LOGITS, DistillationObjective, derive_seed


@dataclass(frozen=True)
class _LossInputs:
    """What the loss is given: the learner's outputs, the sources' (detached), and the labels, all of the same rows.

    `share` is the part of the micro-batch's images that these rows are: the mean is over all images, the others count 0. `measured`: the
    source's output is the distances between its images, as they came from another rank.
    """

    learner: list[Tensor]
    source: list[Tensor]
    labels: Tensor
    share: float
    measured: bool


class EdgeLoss:
    """One edge at work."""

    def __init__(self, edge: Edge, loss: Loss, factor: Factor, *, comm: Communicator, unlabelled: bool = False) -> None:
        """Makes the edge evaluate `loss`, with its weight times `factor` of the epoch; `unlabelled`: some images have no label."""
        self.edge = edge
        self.loss = loss
        self._factor = factor
        self._comm = comm
        self._skips_unlabelled = unlabelled and edge.reads_labels
        self._key = f"{edge.index}.{edge.source}"

    def weight(self, epoch: float) -> float:
        """Returns the weight of this edge's loss when `epoch` epochs are done."""
        return self.edge.weight * self._factor(epoch)

    def value(
        self, learner: Outputs, heard: Mapping[str, Outputs], labels: Tensor, *, count: int, seed: int, total: int | None = None
    ) -> Tensor:
        """Returns the loss, the mean over the first `count` images; sources are read in `heard` and detached.

        With `count` 0 it is the loss of a padding row, finite and of weight 0. All processes of the learner have `total` images
        between them, or are asked.
        """
        real = max(count, 1)
        reads = self.loss.spec
        mine = [learner[at][:real] for at in self.edge.learner_at]
        output_key = self._read(mine, heard, labels[:real])
        many = reads.multi_output
        source, truth, first = output_key.source, output_key.labels, 0
        if reads.gathers:
            source, truth, first = self._gathered(output_key, empty=count == 0 or output_key.share == 0, total=total)
        if reads.is_stochastic:
            torch.manual_seed(derive_seed(seed, self.edge.learner, self._key))
        theirs = None if not reads.reads_source else source if many else source[0]
        value: Tensor = self.loss(
            output_key.learner if many else output_key.learner[0], theirs, truth, row_offset=first, source_is_distances=output_key.measured
        )
        return value if output_key.share == 1 else value * output_key.share

    def _read(self, mine: list[Tensor], heard: Mapping[str, Outputs], labels: Tensor) -> _LossInputs:
        rows, share = self._rows(heard, labels)
        truth = (labels.clamp(min=0) if self._skips_unlabelled else labels)[rows]
        source = [
            output
            for name, paths in zip(self.edge.sources, self.edge.source_at, strict=True)
            for output in self._said(name, paths, heard, rows, truth)
        ]
        measured = any(
            distances_key(path) in heard.get(name, {})
            for name, paths in zip(self.edge.sources, self.edge.source_at, strict=True)
            for path in paths
        )
        return _LossInputs([output[rows] for output in mine], source, truth, share, measured)

    def _rows(self, heard: Mapping[str, Outputs], labels: Tensor) -> tuple[slice | Tensor, float]:
        """Returns the rows that the edge reads, those with a label where it needs one and that its gate lets through, and their share.

        Where there is none, it reads all rows with share 0, so that the graph stays whole.
        """
        every, kept_B = slice(len(labels)), None
        if self._skips_unlabelled:
            kept_B, labels = labels >= 0, labels.clamp(min=0)
        if self.edge.spec.gate == "correct":
            (logits,) = self._said(self.edge.sources[0], (LOGITS,), heard, every, labels)
            right_B = logits.argmax(dim=1) == _classes(labels)
            kept_B = right_B if kept_B is None else kept_B & right_B
        if kept_B is None:
            return every, 1.0
        rows = kept_B.nonzero().flatten()
        return (rows, len(rows) / len(labels)) if len(rows) else (every, 0.0)

    def _said(self, name: str, paths: tuple[str, ...], heard: Mapping[str, Outputs], rows: slice | Tensor, truth: Tensor) -> list[Tensor]:
        """Returns what the edge reads of a source for `rows`, detached; the distances between them where these have come in its place."""
        if name == ENSEMBLE:
            assert isinstance(self.edge.spec, DistillationObjective)
            weighting = "mean" if self.edge.spec.ensemble is None else self.edge.spec.ensemble.weighting
            logits_KBC = torch.stack([heard[member][LOGITS][rows].detach().float() for member in self.edge.members])
            return [ENSEMBLES[weighting](logits_KBC, truth)]
        found, keys = heard[name], [distances_key(path) for path in paths]
        return [found[key][rows][:, rows] if key in found else found[path][rows].detach() for path, key in zip(paths, keys, strict=True)]

    def _gathered(self, output_key: _LossInputs, *, empty: bool, total: int | None) -> tuple[list[Tensor], Tensor, int]:
        """Returns sources and labels of all processes' rows, and where this process' begin; one without images keeps to its padding."""
        own, parts = [*output_key.source, output_key.labels], self._comm.size
        counts = None  # a gate, or missing labels, decide how many rows each process has
        if total is not None and not self._skips_unlabelled and self.edge.spec.gate != "correct":
            bounds = [shard_bounds(total, part, parts) for part in range(parts)]
            counts = [end - begin for begin, end in bounds]
        rows, first = self._comm.all_gather_rows([tensor[:0] if empty else tensor for tensor in own], counts)
        return (output_key.source, output_key.labels, 0) if empty else (rows[:-1], rows[-1], first)


def _classes(labels: Tensor) -> Tensor:
    return labels.argmax(dim=1) if labels.is_floating_point() else labels
