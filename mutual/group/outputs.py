"""GroupOutput: what the peers and edges of a group gave for one micro-batch.

Shapes: B images of this process' micro-batch, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GroupOutput:
    """What one micro-batch gave.

    Attributes:
        losses: for each learner the weighted sum of its edges' losses, a scalar (mean over the valid images), with its graph.
        edge_losses: by the edge's index its loss, unweighted and detached.
        logits: for each peer that was run its detached logits `[B, C]`, float32, valid images only.
    """

    losses: dict[str, Tensor]
    edge_losses: dict[int, Tensor]
    logits: dict[str, Tensor]

    def detached(self) -> GroupOutput:
        """Returns the same without the graphs."""
        return GroupOutput({name: loss.detach() for name, loss in self.losses.items()}, self.edge_losses, self.logits)


def merge_outputs(outputs: Iterable[GroupOutput]) -> GroupOutput:
    """Returns the outputs of several learners for one micro-batch as one."""
    merged = GroupOutput({}, {}, {})
    for output in outputs:
        merged.losses.update(output.losses)
        merged.edge_losses.update(output.edge_losses)
        merged.logits.update(output.logits)
    return merged
