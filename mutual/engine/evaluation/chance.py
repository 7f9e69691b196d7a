"""ChanceMeter: how often a peer would be right if its predictions had nothing to do with the images.

Shapes: B images, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mutual.engine.evaluation.scored_batch import ScoredBatch
from mutual.group import Communicator
from mutual.models import ClassIndex

_NUM_ERRORS = 3.0
_SLIGHT = 0.05
_TELLING = 0.25


@dataclass(frozen=True)
class Chance:
    """What chance gives a peer.

    Attributes:
        level: the expected top-1 accuracy, or mean average precision, as a fraction.
        num_images: number of images by which the peer was scored.
    """

    level: float
    num_images: int

    def explains(self, score: float) -> bool:
        """Returns whether chance explains `score`, and the images are enough to tell.

        It explains what lies within 3 standard errors of the level, or within 5 % of the way from there to 1. They tell if this is less
        than a quarter of that way, so that a peer that knows something of its classes is above.

        Example:
            >>> Chance(0.1, num_images=1000).explains(0.12), Chance(0.1, num_images=1000).explains(0.5)
            (True, False)
            >>> Chance(0.5, num_images=12).explains(0.5)
            False
        """
        way, num_images = 1 - self.level, max(self.num_images, 1)
        level = max(self.level, min(1 / num_images, 0.5))  # what few images show as 0 is not known so exactly
        error = math.sqrt(level * (1 - level) / num_images)
        margin = max(_NUM_ERRORS * error, _SLIGHT * way)
        return margin < _TELLING * way and score <= self.level + margin


class ChanceMeter:
    """Counts the images' classes and the classes that peers predict.

    The level for one class an image is the accuracy of predictions that are as frequent and independent of the image (the chance of Cohen's
    kappa): 1/C where classes are equally frequent, and the frequency of its class for a peer that always predicts the same. For several
    labels it is the mean frequency of the labels, the average precision of a random order. For a peer that knows a part of the classes
    it is that of the images of these, or of these labels.

    Args:
        peers: names of the peers.
        comm: the ranks of the run.
        num_classes: number of classes.
        multi_label: whether an image has several labels and not one class.
        known_classes: by peer the classes that its logits stand for, where these are not all.
    """

    def __init__(
        self,
        peers: Sequence[str],
        comm: Communicator,
        *,
        num_classes: int,
        multi_label: bool,
        known_classes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self._comm = comm
        self._multi_label = multi_label
        self._peers = tuple(peers)
        self._num_images = 0
        dtype = torch.float32 if comm.device.type == "mps" else torch.float64
        self._targets_C = torch.zeros(num_classes, dtype=dtype, device=comm.device)
        self._predictions_PC = torch.zeros(len(self._peers), num_classes, dtype=dtype, device=comm.device)
        self._known = {name: ClassIndex(known, comm.device) for name, known in (known_classes or {}).items()}
        self._is_known_PC = torch.ones(len(self._peers), num_classes, dtype=torch.bool, device=comm.device)
        for is_known_C, name in zip(self._is_known_PC, self._peers, strict=True):
            if name in self._known:
                is_known_C.fill_(False)[self._known[name].index_K] = True

    def add(self, scored: ScoredBatch) -> None:
        """Adds a batch; rows of its logits beyond its labels are padding."""
        labels = scored.labels
        self._num_images += len(labels)
        if self._multi_label:
            self._targets_C += (labels > 0.5).sum(dim=0)
            return
        ones = torch.ones_like(labels, dtype=self._targets_C.dtype)  # bincount would have the host wait for the greatest label
        self._targets_C.scatter_add_(0, labels, ones)
        for counts_C, name in zip(self._predictions_PC, self._peers, strict=True):
            predictions = scored.logits[name][: len(labels)].argmax(dim=1)
            if name in self._known:
                _, is_known_B = self._known[name].labels(labels)
                counts_C.scatter_add_(0, self._known[name].index_K[predictions], ones if is_known_B is None else is_known_B.to(ones.dtype))
            else:
                counts_C.scatter_add_(0, predictions, ones)

    def levels(self) -> dict[str, Chance]:
        """Returns by peer what chance gives it, over the images of all ranks. Collective: all ranks must call it."""
        num_images = torch.full_like(self._targets_C[:1], self._num_images)
        sums = self._comm.all_reduce_sum(torch.cat([num_images, self._targets_C, self._predictions_PC.flatten()]))
        num_images, targets_C, predictions = sums.split([1, len(self._targets_C), self._predictions_PC.numel()])
        targets_PC = torch.where(self._is_known_PC, targets_C, 0)
        if self._multi_label:
            num_present_P = (targets_PC > 0).sum(dim=1).clamp(min=1)
            levels = (targets_PC.sum(dim=1) / num_present_P / num_images.clamp(min=1)).tolist()
            return {name: Chance(level, int(num_images)) for name, level in zip(self._peers, levels, strict=True)}
        totals_P = targets_PC.sum(dim=1)
        levels = ((predictions.view_as(targets_PC) * targets_PC).sum(dim=1) / totals_P.clamp(min=1) ** 2).tolist()
        rows = zip(self._peers, levels, totals_P.tolist(), strict=True)
        return {name: Chance(level, int(total)) for name, level, total in rows}
