"""EdgeLoss: an edge with its loss, from the outputs of a micro-batch to the scalar that the learner minimises.

Shapes: B valid images of this process' micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.data import shard_bounds
from mutual.group.communication import Communicator
from mutual.group.edges.common_classes import CommonClasses
from mutual.group.edges.edge import Edge
from mutual.group.edges.selection import Selection, Selections, Selector, readers_of
from mutual.group.edges.weight_schedule import Factor
from mutual.group.peers import Autocast, Outputs, seed_generators
from mutual.objectives import Loss, SourcePayload, to_vector, upcast
from mutual.recipe import LOGITS, derive_seed


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
        classes: those in common of learner and sources, where these are not all.
        autocast: gives the context in which the learner, and so the loss's trainable part, runs.

    Attributes:
        edge: the edge.
        loss: its loss.
        factor: as above, for all edges of the objective.
        selector: how it selects images.
        classes: as above.
    """

    def __init__(
        self,
        edge: Edge,
        loss: Loss,
        factor: Factor,
        *,
        comm: Communicator,
        unlabelled: bool = False,
        classes: CommonClasses | None = None,
        autocast: Autocast = nullcontext,
    ) -> None:
        self.edge = edge
        self.loss = loss
        self.factor = factor
        self._comm = comm
        self.classes = classes
        self._autocast = autocast
        self._readers = readers_of(edge, classes)
        self.selector = Selector.of(edge, unlabelled=unlabelled, classes=classes)
        self._seed_key = f"{edge.objective_index}.{edge.source}"

    def weight(self, epoch: float) -> float:
        """Returns the weight of this loss after `epoch` epochs."""
        return self.edge.weight * self.factor(epoch)

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
        selection = selections.get(self.selector, source_outputs)
        num_rows = len(selection.targets)
        learner = [self._learner_output(learner_outputs, path)[:num_rows] for path in self.edge.learner_at]
        ungated = selections.get(self.selector.without_gate, source_outputs)  # an ensemble is weighted before it is the gate
        source = [output for reader in self._readers for output in reader.read(source_outputs, ungated)]
        targets, mask, row_offset = selection.targets, selection.mask, 0
        if spec.gathers_learner:
            learner, source, targets, mask, row_offset = self._all_gather_both(learner, source, selection, context)
        elif spec.gathers:
            source, targets, mask, row_offset = self._all_gather(source, selection, context)
        reads_distances = any(reader.reads_distances(source_outputs) for reader in self._readers)
        if mask is not None and not reads_distances:
            source = [_finite_where_left_out(output, mask) for output in source]
        if spec.is_stochastic:
            seed_generators(derive_seed(context.seed, self.edge.learner, self._seed_key), learner[0].device)
        with self._autocast():
            loss: Tensor = self.loss(
                learner if spec.multi_output else learner[0],
                None if not spec.reads_source else source if spec.multi_output else source[0],
                targets,
                mask=mask,
                row_offset=row_offset,
                num_rows=num_rows,
                source_is_distances=reads_distances,
            )
        return loss

    def _learner_output(self, outputs: Outputs, path: str) -> Tensor:
        output = outputs[path]
        return output if self.classes is None or path != LOGITS else self.classes.restrict(self.edge.learner, output)

    def _all_gather_both(
        self, learner: list[Tensor], source: list[Tensor], selection: Selection, context: MicroBatchContext
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor | None, int]:
        """Returns learner, sources, targets and mask of all processes, and this process' first row; its rows alone have a gradient."""
        learner = [to_vector(output) for output in learner]
        gathered, targets, mask, row_offset = self._all_gather([output.detach() for output in learner] + source, selection, context)
        end = row_offset + len(learner[0])
        joined = [torch.cat([rows[:row_offset], own, rows[end:]]) for rows, own in zip(gathered[: len(learner)], learner, strict=True)]
        return joined, gathered[len(learner) :], targets, mask, row_offset

    def _all_gather(
        self, source: list[Tensor], selection: Selection, context: MicroBatchContext
    ) -> tuple[list[Tensor], Tensor, Tensor | None, int]:
        """Returns sources, targets and mask of all processes, and the index of this process' first row among them."""
        num_shards, num_rows = self._comm.size, None
        if context.global_batch_size is not None:  # else each process asks the others
            bounds = [shard_bounds(context.global_batch_size, shard, num_shards) for shard in range(num_shards)]
            num_rows = [end - begin for begin, end in bounds]
        if self.loss.loss_spec.payload is SourcePayload.VECTOR:
            source = [to_vector(upcast(output)) for output in source]  # as the loss does: maps are many times as large
        masks = [] if selection.mask is None else [selection.mask.byte()]  # gloo gathers no booleans
        tensors = [*source, selection.targets, *masks]
        gathered, row_offset = self._comm.all_gather_rows([rows[: context.num_valid] for rows in tensors], num_rows)
        if context.num_valid == 0:  # its loss is of padding and weighs nothing
            gathered, row_offset = tensors, 0
        mask = None if selection.mask is None else gathered.pop().bool()
        return gathered[:-1], gathered[-1], mask, row_offset


def _finite_where_left_out(output: Tensor, mask_B: Tensor) -> Tensor:
    """Returns the output `[B, ...]` with 0 for what is not finite in images that do not count: in the backward, 0 times NaN is NaN."""
    return torch.where(mask_B.view(-1, *(1 for _ in output.shape[1:])), output, output.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
