"""EdgeEvaluation: the edges of some learners, from outputs to losses; those that can be are evaluated together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from mutual.group.edges import EdgeLoss, LogitsTable, MicroBatchContext, Selections, batches_of, can_be_batched
from mutual.group.exchange import ExchangeHandle
from mutual.group.outputs import EdgeLosses
from mutual.group.peers import Outputs

Evaluated = tuple[tuple[int, ...], Tensor, list[tuple[str, Tensor]]]
"""Edges, their losses, unweighted and detached, and the weighted sums of these for learners, with their graph."""


class EdgeEvaluation:
    """Evaluates edges: first those whose sources are here, then those whose sources' outputs come from other processes.

    Args:
        edge_losses: by index the losses of the edges.
        sources_here: the peers and moving averages whose outputs this process computes.
        device: of the outputs.
    """

    def __init__(self, edge_losses: Mapping[int, EdgeLoss], *, sources_here: Collection[str], device: torch.device) -> None:
        here = {index: each for index, each in edge_losses.items() if set(sources_here).issuperset(each.edge.required_sources)}
        elsewhere = {index: each for index, each in edge_losses.items() if index not in here}
        self._stages = [_Stage(here, device), _Stage(elsewhere, device)]

    def forward(
        self,
        outputs: Mapping[str, Outputs],
        source_outputs: Mapping[str, Outputs],
        labels: Tensor,
        context: MicroBatchContext,
        *,
        unavailable: Collection[str],
        handle: ExchangeHandle | None,
    ) -> tuple[dict[str, Tensor], EdgeLosses]:
        """Returns by learner the weighted sum of its edges' losses, a scalar with its graph, and each edge's own loss.

        Args:
            outputs: outputs of the learners, with their graph.
            source_outputs: outputs of the sources that are here; a learner's own replace them.
            labels: `[B + padding]` or `[B + padding, C]`.
            context: what else is known of the micro-batch.
            unavailable: sources whose outputs mean nothing yet; their edges weigh 0.
            handle: the exchange that brings the other sources' outputs.
        """
        losses: dict[str, Tensor] = {}
        edge_losses = EdgeLosses()
        for indices, values, weighted in self.evaluate(outputs, source_outputs, labels, context, unavailable=unavailable, handle=handle):
            edge_losses.blocks.append((indices, values))
            for learner, loss in weighted:
                losses[learner] = losses[learner] + loss if learner in losses else loss
        return losses, edge_losses

    def evaluate(
        self,
        outputs: Mapping[str, Outputs],
        source_outputs: Mapping[str, Outputs],
        labels: Tensor,
        context: MicroBatchContext,
        *,
        unavailable: Collection[str] = (),
        handle: ExchangeHandle | None = None,
    ) -> Iterator[Evaluated]:
        """Yields what `forward` adds up, block by block; each is of one objective. The arguments are those of `forward`."""
        selections = Selections(labels[: max(context.num_valid, 1)])
        table = LogitsTable(outputs, source_outputs, selections.num_rows)
        for stage in self._stages:
            if stage is self._stages[-1] and handle is not None:  # waited for in any case: all ranks finish an exchange that they started
                source_outputs = {**source_outputs, **handle.wait()}
                table.add_sources(source_outputs)
            yield from stage.together(table, selections, epoch=context.epoch, unavailable=unavailable)
            yield from stage.one_by_one(outputs, source_outputs, selections, context, unavailable=unavailable)


class _Stage:
    """Edges that are evaluated at the same time: those on logits together, the others one by one."""

    def __init__(self, edge_losses: Mapping[int, EdgeLoss], device: torch.device) -> None:
        together = {index: each for index, each in edge_losses.items() if can_be_batched(each)}
        self._batches = batches_of(together, device)
        self._others = {index: each for index, each in edge_losses.items() if index not in together}

    def together(self, table: LogitsTable, selections: Selections, *, epoch: float, unavailable: Collection[str]) -> Iterator[Evaluated]:
        """Yields the losses of the edges on logits, those of an objective at once."""
        for batch in self._batches:
            weighted, values = batch.forward(table, selections, epoch=epoch, unavailable=unavailable)
            yield batch.indices, values, list(zip(batch.learners, weighted, strict=True))

    def one_by_one(
        self,
        outputs: Mapping[str, Outputs],
        source_outputs: Mapping[str, Outputs],
        selections: Selections,
        context: MicroBatchContext,
        *,
        unavailable: Collection[str],
    ) -> Iterator[Evaluated]:
        """Yields the loss of each other edge."""
        for index, edge_loss in self._others.items():
            edge, learner = edge_loss.edge, edge_loss.edge.learner
            loss = edge_loss.forward(outputs[learner], {**source_outputs, learner: outputs[learner]}, selections, context)
            is_available = set(unavailable).isdisjoint(edge.required_sources)
            weight = edge_loss.weight(context.epoch) if is_available else 0.0
            yield (index,), loss.detach()[None], [(learner, weight * loss)]
