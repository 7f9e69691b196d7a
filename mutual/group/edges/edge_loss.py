"""EdgeLoss: an edge with its loss, from the outputs of a micro-batch to the scalar that the learner minimises.

Shapes: B valid images of this process' micro-batch, R rows of them that the edge reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.data import shard_bounds
from mutual.group.communication import Communicator
from mutual.group.edges.edge import Edge
from mutual.group.edges.selection import Selection, Selections, Selector, readers_of
from mutual.group.edges.weight_schedule import Factor
from mutual.group.peers import Outputs
from mutual.objectives import Loss
from mutual.recipe import derive_seed


@dataclass(frozen=True)
class MicroBatchContext:
    """What losses must know of a micro-batch besides its images and labels.

    Attributes:
        num_valid: number of valid images; the rest are padding, ignored by every loss. If 0, losses are computed on padding and the caller
            must weight them by 0.
        seed: seeds the micro-batch's random numbers; each peer's depend on it and the peer's name alone.
        epoch: epochs done, with fractions; weights may depend on it.
        global_batch_size: images of the micro-batch over all processes; required where outputs travel between ranks.
        keys_B2: index and view number of each image, padding included; required where outputs are kept in a store.
    """

    num_valid: int
    seed: int
    epoch: float = 0.0
    global_batch_size: int | None = None
    keys_B2: Tensor | None = None


class EdgeLoss:
    """The loss of one edge.

    Args:
        edge: the edge.
        loss: its loss, built for the shapes that the edge reads.
        factor: by the epoch, the factor on the edge's weight.
        comm: the processes that train the learner.
        unlabelled: some images have no label.
    """

    def __init__(self, edge: Edge, loss: Loss, factor: Factor, *, comm: Communicator, unlabelled: bool = False) -> None:
        self.edge = edge
        self.loss = loss
        self._factor = factor
        self._comm = comm
        self._readers = readers_of(edge)
        self._selector = Selector.of(edge, unlabelled=unlabelled)
        self._seed_key = f"{edge.objective_index}.{edge.source}"

    def weight(self, epoch: float) -> float:
        """Returns the weight of this loss after `epoch` epochs."""
        return self.edge.weight * self._factor(epoch)

    def forward(
        self, learner_outputs: Outputs, source_outputs: Mapping[str, Outputs], selections: Selections, context: MicroBatchContext
    ) -> Tensor:
        """Returns the scalar loss, the mean over the valid images; its gradient flows into `learner_outputs` alone.

        Args:
            learner_outputs: outputs of the learner by module path, `[B + padding, ...]`.
            source_outputs: the same of every source by its name.
            selections: the micro-batch's selections.
            context: what else is known of the micro-batch.
        """
        spec = self.loss.loss_spec
        selection = selections.get(self._selector, source_outputs)
        learner = [learner_outputs[path][selection.rows] for path in self.edge.learner_at]
        source = [output for reader in self._readers for output in reader.read(source_outputs, selection)]
        targets, row_offset = selection.targets, 0
        if spec.gathers:
            source, targets, row_offset = self._all_gather(source, selection, context)
        if spec.is_stochastic:
            torch.manual_seed(derive_seed(context.seed, self.edge.learner, self._seed_key))
        loss: Tensor = self.loss(
            learner if spec.multi_output else learner[0],
            None if not spec.reads_source else source if spec.multi_output else source[0],
            targets,
            row_offset=row_offset,
            source_is_distances=any(reader.reads_distances(source_outputs) for reader in self._readers),
        )
        return loss if selection.fraction == 1 else loss * selection.fraction

    def _all_gather(self, source: list[Tensor], selection: Selection, context: MicroBatchContext) -> tuple[list[Tensor], Tensor, int]:
        """Returns sources and targets of all processes, and the index of this process' first row among them."""
        is_empty = context.num_valid == 0 or selection.fraction == 0
        num_shards, num_rows = self._comm.size, None
        if context.global_batch_size is not None and self._selector == Selector():  # else each process selects as many rows as it does
            bounds = [shard_bounds(context.global_batch_size, shard, num_shards) for shard in range(num_shards)]
            num_rows = [end - begin for begin, end in bounds]
        outgoing = [tensor[:0] if is_empty else tensor for tensor in (*source, selection.targets)]
        gathered, row_offset = self._comm.all_gather_rows(outgoing, num_rows)
        if is_empty:  # its loss is of padding and weighs nothing
            return source, selection.targets, 0
        return gathered[:-1], gathered[-1], row_offset
