"""embedded: a pass of the peers without a head over a split, each image embedded once over all ranks.

Shapes: B images of this process' batch, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.data import Batch, shard_bounds
from mutual.engine.evaluation.readable import readable_rows
from mutual.group import Group


@dataclass(frozen=True)
class Embedded:
    """The images of a batch that could be read, as peers without a head see them.

    Attributes:
        embeddings: for each such peer whose outputs this rank sends `[B, D]`, as its model gives them, in float32 at least.
        labels: class indices `[B]`, or flags `[B, C]`.
        positions: `[B]`, the images' places in the split.
    """

    embeddings: dict[str, Tensor]
    labels: Tensor
    positions: Tensor


def embedded(group: Group, batches: Iterable[Batch], *, device: torch.device) -> Iterator[Embedded]:
    """Yields this rank's batches of a split as its peers without a head see them; nothing is sent between ranks."""
    start = 0
    for batch in batches:
        on_device = batch.to(device, non_blocking=True)
        first = start + shard_bounds(batch.global_batch_size, *group.shard)[0]
        start += batch.global_batch_size
        if batch.num_valid > len(batch.bad):
            bad_rows = [image.row for image in batch.bad]
            of_batch = group.embed(on_device.images)
            embeddings = {name: readable_rows(embedding_BD[: batch.num_valid], bad_rows) for name, embedding_BD in of_batch.items()}
            positions = torch.arange(first, first + batch.num_valid, device=device)
            labels = on_device.labels[: batch.num_valid]
            yield Embedded(embeddings, readable_rows(labels, bad_rows), readable_rows(positions, bad_rows))
