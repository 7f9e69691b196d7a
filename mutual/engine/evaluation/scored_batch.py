"""ScoredBatch: what an evaluation has found of one batch, for whatever counts more than the scores.

Shapes: B images, those that could not be read left out; C classes, or those that a peer knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mutual.data import Batch
from mutual.engine.evaluation.readable import readable_rows


@dataclass(frozen=True)
class ScoredMember:
    """What a member, a peer or the ensemble, says of a batch.

    Attributes:
        probabilities_BC: of the classes, or of those that it knows.
        labels: `[B]`, or flags `[B, C]`: among the classes that it knows.
        is_counted_B: flags of the images that have one of these classes; None: all.
    """

    probabilities_BC: Tensor
    labels: Tensor
    is_counted_B: Tensor | None = None

    @property
    def predictions(self) -> Tensor:
        """The predicted classes `[B]`, or flags `[B, C]`, as accuracies count them."""
        return self.probabilities_BC.argmax(dim=1) if self.labels.dim() == 1 else self.probabilities_BC > 0.5


@dataclass(frozen=True)
class ScoredBatch:
    """A batch with what was found of it.

    Attributes:
        batch: as it was loaded.
        logits: by peer `[B, C]`, `[B, K]` of one that knows a part of the classes.
        labels: `[B]`, or flags `[B, C]`, of the data's classes.
        members: by name.
    """

    batch: Batch
    logits: Mapping[str, Tensor]
    labels: Tensor
    members: Mapping[str, ScoredMember]

    @property
    def num_images(self) -> int:
        """Number of images, B."""
        return self.batch.num_valid - len(self.batch.bad)

    def positions(self, device: torch.device) -> slice | Tensor:
        """Returns where the images are in their split; as indices on `device` only where some could not be read."""
        first = first_position(self.batch)
        if not self.batch.bad:
            return slice(first, first + self.batch.num_valid)
        rows = torch.arange(first, first + self.batch.num_valid)
        return readable_rows(rows, [image.row for image in self.batch.bad]).to(device)


class BatchObserver(Protocol):
    """Counts something of each batch of an evaluation that this rank scores; must not make the host wait for the device."""

    def add(self, scored: ScoredBatch) -> None:
        """Adds a batch."""
        ...


def first_position(batch: Batch) -> int:
    """Returns where the first of a batch's images is in its split; those of an evaluation follow one another."""
    assert batch.keys_B2 is not None, "it was loaded from a split"
    return int(batch.keys_B2[0, 0])  # in the CPU's memory
