"""GroupOutput: what the peers and edges of a group gave for one micro-batch.

Shapes: B images of this process' micro-batch, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor


class EdgeLosses(Mapping[int, Tensor]):
    """By the edge's index its loss, unweighted and detached; the losses of edges that were evaluated together stay together.

    Attributes:
        blocks: indices of edges, with their losses `[E]`.

    Example:
        >>> import torch
        >>> losses = EdgeLosses([((0, 2), torch.tensor([0.5, 1.5]))])
        >>> losses[2], list(losses)
        (tensor(1.5000), [0, 2])
    """

    def __init__(self, blocks: Iterable[tuple[tuple[int, ...], Tensor]] = ()) -> None:
        self.blocks = list(blocks)

    def __getitem__(self, index: int) -> Tensor:
        for indices, values in self.blocks:
            if index in indices:
                return values[indices.index(index)]
        raise KeyError(index)

    def __iter__(self) -> Iterator[int]:
        return (index for indices, _ in self.blocks for index in indices)

    def __len__(self) -> int:
        return sum(len(indices) for indices, _ in self.blocks)


@dataclass(frozen=True)
class GroupOutput:
    """What one micro-batch gave.

    Attributes:
        losses: for each learner the weighted sum of its edges' losses, a scalar (mean over the valid images), with its graph.
        edge_losses: of every edge that was evaluated.
        logits: for each peer that was run its detached logits `[B, C]`, float32, valid images only.
    """

    losses: dict[str, Tensor]
    edge_losses: EdgeLosses
    logits: dict[str, Tensor]

    def detached(self) -> GroupOutput:
        """Returns the same without the graphs."""
        return GroupOutput({name: loss.detach() for name, loss in self.losses.items()}, self.edge_losses, self.logits)


def merge_outputs(outputs: Iterable[GroupOutput]) -> GroupOutput:
    """Returns the outputs of several learners for one micro-batch as one."""
    merged = GroupOutput({}, EdgeLosses(), {})
    for output in outputs:
        merged.losses.update(output.losses)
        merged.edge_losses.blocks.extend(output.edge_losses.blocks)
        merged.logits.update(output.logits)
    return merged
