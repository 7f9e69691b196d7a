"""KeptOutputs: what frozen peers say of the validation images, computed once.

Shapes: B images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mutual.data import Batch
from mutual.engine.evaluation import packed_predictions
from mutual.engine.evaluation.scored_batch import first_position
from mutual.engine.evaluation.task_metrics import task_metrics

MAX_KEPT_BYTES = 2**28
"""Of the logits that are kept, of all frozen peers over all ranks: 256 MiB, one teacher's of 50,000 images and 1,000 classes."""


@dataclass
class _KeptBatch:
    """By peer its packed predictions, and its logits where these are kept."""

    predictions: dict[str, Tensor] = field(default_factory=dict)
    logits: dict[str, Tensor] = field(default_factory=dict)


class KeptOutputs:
    """Keeps what frozen peers say of the images that this rank scores, batch by batch, as later evaluations go through them alike.

    Predictions are kept on the device; logits in the host's memory, in full precision, or not at all where they would take more than
    `MAX_KEPT_BYTES`, which depends on neither ranks nor batches.

    Args:
        peers: the frozen peers; all know all classes.
        num_images: of the split.
        num_classes: of the data.
        multi_label: whether an image has several labels and not one class.

    Attributes:
        peers: as above.
        has_logits: whether logits are kept.
        is_complete: whether all of the split was kept; the caller says so.
    """

    def __init__(self, peers: Sequence[str], *, num_images: int, num_classes: int, multi_label: bool) -> None:
        self.peers = tuple(peers)
        self.has_logits = len(self.peers) * num_images * num_classes * torch.float32.itemsize <= MAX_KEPT_BYTES
        self.is_complete = not self.peers
        self._num_classes = num_classes
        self._task = task_metrics(num_classes, multi_label=multi_label)
        self._batches: dict[int, _KeptBatch] = {}

    def keep(self, batch: Batch, logits: Mapping[str, Tensor]) -> None:
        """Keeps what the peers say of a batch that this rank scores."""
        if batch.num_valid == 0:
            return
        kept = _KeptBatch()
        for name in self.peers:
            kept.predictions[name] = packed_predictions.pack(self._task.predictions(logits[name]), self._num_classes)
            if self.has_logits:
                kept.logits[name] = _on_host(logits[name])
        self._batches[first_position(batch)] = kept

    def predictions(self, batch: Batch) -> dict[str, Tensor]:
        """Returns by peer the predicted classes `[B]`, or flags `[B, C]`, of a batch that was kept."""
        kept = self._batches[first_position(batch)].predictions if self.peers else {}
        return {name: packed_predictions.unpack(packed, self._num_classes)[0] for name, packed in kept.items()}

    def logits(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """Returns by peer the logits `[B, C]` of a batch that was kept; none where they are not."""
        kept = self._batches[first_position(batch)].logits if self.peers else {}
        return {name: logits.to(device, non_blocking=True) for name, logits in kept.items()}


def _on_host(logits: Tensor) -> Tensor:
    """Returns a copy in the host's memory, which the host does not wait for."""
    if logits.device.type == "cpu":
        return logits.clone()
    is_cuda = logits.device.type == "cuda"
    return torch.empty(logits.shape, dtype=logits.dtype, pin_memory=is_cuda).copy_(logits, non_blocking=is_cuda)
