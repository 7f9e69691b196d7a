"""EdgeBatch: the edges of an objective that read logits, evaluated together, so that kernels grow with the peers and not with the edges.

Shapes: B valid images of this process' micro-batch, C classes, L learners' outputs, K sources of each, S sources of all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import torch
from torch import Tensor

from mutual.group.edges.edge import Edge, OutputKey
from mutual.group.edges.edge_loss import EdgeLoss
from mutual.group.edges.logits_table import EnsembleKey, EnsembleKind, LogitsTable, SourceKey, kind_of
from mutual.group.edges.selection import Selections, correct_among
from mutual.recipe import ENSEMBLE, LOGITS, DistillationObjective


class EdgeBatch:
    """Edges of one objective on logits, of the same classes.

    Args:
        edge_losses: by index the losses of the edges.
        device: of the logits.

    Attributes:
        indices: the edges, in the order of their losses.
        learners: the peer of each output that learns; one may learn at several.
    """

    def __init__(self, edge_losses: Mapping[int, EdgeLoss], device: torch.device) -> None:
        rows: dict[OutputKey, list[int]] = {}
        for index, edge_loss in edge_losses.items():
            rows.setdefault(_learner_key(edge_loss.edge), []).append(index)
        self._edge_losses = dict(edge_losses)
        self._first = next(iter(edge_losses.values()))
        self._learners = tuple(rows)
        self.learners = [key.peer for key in rows]
        self._num_sources = max(map(len, rows.values()))
        self.indices = tuple(index for indices in rows.values() for index in indices)
        self._is_full = len(self.indices) == len(rows) * self._num_sources
        # a row with fewer sources than others is filled up with its first edge, whose repetitions weigh nothing
        self._padded = [[*indices, *[indices[0]] * (self._num_sources - len(indices))] for indices in rows.values()]
        self._is_edge = [[column < len(indices) for column in range(self._num_sources)] for indices in rows.values()]
        self._device = device
        self._sources: tuple[SourceKey, ...] = ()
        if self._first.edge.sources:
            by_edge = {index: _source_key(each.edge) for index, each in edge_losses.items()}
            self._sources = self._in_order(set(by_edge.values()))
            position = {key: index for index, key in enumerate(self._sources)}
            self._source_index = torch.tensor([[position[by_edge[index]] for index in row] for row in self._padded], device=device)
        self._positions = torch.tensor(self._is_edge, device=device).flatten().nonzero().flatten()
        self._weights: dict[tuple[frozenset[str], torch.dtype], Tensor | float] = {}

    def forward(
        self, table: LogitsTable, selections: Selections, *, epoch: float, unavailable: Collection[str]
    ) -> tuple[list[Tensor], Tensor]:
        """Returns for each of `learners` the weighted sum of its edges' losses, and those of all `indices`, unweighted and detached.

        Args:
            table: the logits.
            selections: the micro-batch's selections.
            epoch: epochs done, with fractions; the weight may depend on it.
            unavailable: sources whose outputs mean nothing yet; their edges weigh 0.
        """
        first, selection = self._first, selections.get(self._first.selector.without_gate, {})
        learners, sources, mask = table.learners(self._learners, first.classes), None, selection.mask
        if self._sources:
            dtype = learners.logits.dtype
            all_sources = table.sources(self._sources, first.classes, selection, dtype=dtype)
            sources = all_sources.derived(self._of_pairs)
            if first.selector.gate is not None:
                mask = self._of_pairs(correct_among(selection, all_sources.logits))
            if mask is not None:  # what is not finite in an image that does not count must not reach the gradient, where 0 times NaN is NaN
                sources = sources.derived(partial(_filled, is_left_out=~mask[..., None]))
            learners = learners.derived(_with_dimension_of_sources)
        losses_LK = first.loss.pairs(learners, sources, selection.targets, mask).view(len(self._learners), -1)
        weights = self._weights_of(unavailable, losses_LK.dtype)
        if isinstance(weights, float):
            total_L = losses_LK.sum(dim=1) if self._num_sources > 1 else losses_LK[:, 0]
            scale = weights * first.factor(epoch)
            total_L = total_L if scale == 1 else total_L * scale
        else:
            total_L = (losses_LK * weights).sum(dim=1) * first.factor(epoch)
        values = losses_LK.detach().flatten()
        return list(total_L.unbind()), values if self._is_full else values.index_select(0, self._positions)

    def _of_pairs(self, values: Tensor) -> Tensor:
        """Returns `[L, K, ...]` of values `[S, ...]` of the sources."""
        return values.index_select(0, self._source_index.flatten()).unflatten(0, self._source_index.shape)

    def _weights_of(self, unavailable: Collection[str], dtype: torch.dtype) -> Tensor | float:
        """Returns the weights `[L, K]` of the edges, the factor left out; a number where all are equal."""
        missing = frozenset(unavailable)
        key = (missing, dtype)
        if key not in self._weights:
            weights = [
                [self._weight(index, missing) if is_edge else 0.0 for index, is_edge in zip(*row, strict=True)]
                for row in zip(self._padded, self._is_edge, strict=True)
            ]
            different = {weight for row in weights for weight in row}
            equal = different.pop() if len(different) == 1 else None
            self._weights[key] = torch.tensor(weights, dtype=dtype, device=self._device) if equal is None else equal
        return self._weights[key]

    def _weight(self, index: int, missing: frozenset[str]) -> float:
        edge = self._edge_losses[index].edge
        return edge.weight if missing.isdisjoint(edge.required_sources) else 0.0

    def _in_order(self, keys: Collection[SourceKey]) -> tuple[SourceKey, ...]:
        """Returns sources in the learners' order, where they are the learners, and those that are computed together side by side."""
        if keys == set(self._learners):
            return self._learners
        return tuple(sorted(keys, key=lambda key: (kind_of(key) or EnsembleKind("", 0), str(key))))


def can_be_batched(edge_loss: EdgeLoss) -> bool:
    """Returns whether an edge can be evaluated together with others of its objective."""
    edge = edge_loss.edge
    reads_gate_elsewhere = edge.objective.gate == "correct" and edge.source_at != ((LOGITS,),)
    spec = edge_loss.loss.loss_spec
    return spec.on_logits and not spec.is_stochastic and not reads_gate_elsewhere  # each edge draws its own numbers


def batches_of(edge_losses: Mapping[int, EdgeLoss], device: torch.device) -> list[EdgeBatch]:
    """Returns batches of edges that are evaluated together, each edge in one of them.

    Args:
        edge_losses: by index the losses of edges; all can be batched.
        device: of the logits.
    """
    groups: dict[object, dict[int, EdgeLoss]] = {}
    for index, edge_loss in edge_losses.items():
        key = (edge_loss.edge.objective_index, edge_loss.classes, edge_loss.selector.without_gate)
        groups.setdefault(key, {})[index] = edge_loss
    return [EdgeBatch(group, device) for group in groups.values()]


def _learner_key(edge: Edge) -> OutputKey:
    (path,) = edge.learner_at
    return OutputKey(edge.learner, path)


def _source_key(edge: Edge) -> SourceKey:
    (source,), ((path,),) = edge.sources, edge.source_at
    if source != ENSEMBLE:
        return OutputKey(source, path)
    assert isinstance(edge.objective, DistillationObjective), "only such an objective has sources"
    weighting = "mean" if edge.objective.ensemble is None else edge.objective.ensemble.weighting
    return EnsembleKey(tuple(OutputKey(member, LOGITS) for member in edge.members), weighting)


def _with_dimension_of_sources(values: Tensor) -> Tensor:
    return values[:, None]


def _filled(values: Tensor, *, is_left_out: Tensor) -> Tensor:
    return values.masked_fill(is_left_out, 0.0)
