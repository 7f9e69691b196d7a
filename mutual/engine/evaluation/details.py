"""EvaluationDetails: confusion, reliability and the pairs' matrices of an evaluation, for pictures.

Shapes: B images, C classes (or those that a peer knows), K bins, P peers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.engine.evaluation.calibration import NUM_BINS, Reliability, reliability
from mutual.engine.evaluation.scored_batch import ScoredBatch, ScoredMember
from mutual.group import Communicator

MAX_CONFUSION_CLASSES = 100
"""With more classes there is no matrix of confusion: none could be looked at."""


@dataclass(frozen=True)
class MemberDetails:
    """What an evaluation has counted of a member.

    Attributes:
        confusion_CC: number of images by their class (rows) and the predicted one (columns), int64; None for more than 100 classes, and
            where images have several labels.
        reliability: in 15 bins.
        classes: the classes of the data that rows and columns stand for; None: all, in their order.
    """

    confusion_CC: Tensor | None
    reliability: Reliability
    classes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class EvaluationDetails:
    """What an evaluation has counted beside its scores; all tensors are in the CPU's memory.

    Attributes:
        members: by name those that were evaluated: trained peers, those that other jobs train, and the ensemble.
        peers: the peers that the matrices compare, in the recipe's order, frozen ones included.
        agreement_PP: symmetric, 1 on the diagonal; NaN where a pair is not compared.
        kl_PP: row A, column B: the mean of KL(p_B || p_A) in nats; 0 on the diagonal, NaN where it is not known.
    """

    members: dict[str, MemberDetails]
    peers: tuple[str, ...]
    agreement_PP: Tensor
    kl_PP: Tensor


class DetailsMeter:
    """Counts on the device what `EvaluationDetails` tells.

    Args:
        comm: the ranks of the run.
        sizes: by member the number of classes that it knows.
        multi_label: whether an image has several labels and not one class.
    """

    def __init__(self, comm: Communicator, sizes: Mapping[str, int], *, multi_label: bool) -> None:
        self._comm = comm
        self._dtype = torch.float32 if comm.device.type == "mps" else torch.float64
        self._sizes = {name: 0 if multi_label or size > MAX_CONFUSION_CLASSES else size for name, size in sizes.items()}
        self._confusion = {name: torch.zeros(size * size, dtype=torch.int64, device=comm.device) for name, size in self._sizes.items()}
        self._bins_3K = {name: torch.zeros(3, NUM_BINS, dtype=self._dtype, device=comm.device) for name in sizes}

    def add(self, scored: ScoredBatch) -> None:
        """Adds a batch."""
        for name, size in self._sizes.items():
            member = scored.members[name]
            if size:
                self._add_confusion(self._confusion[name], member, size)
            found = reliability(member.probabilities_BC, member.labels, is_counted=member.is_counted_B)
            rows = (found.counts_K, found.confidence_sums_K, found.hits_K)
            self._bins_3K[name] += torch.stack([row.to(self._dtype) for row in rows])

    def details(
        self, pairs: Mapping[str, float], peers: Sequence[str], *, known_classes: Mapping[str, tuple[int, ...]]
    ) -> EvaluationDetails:
        """Returns what was counted on all ranks. Collective: all ranks must call it.

        Args:
            pairs: the scores of pairs of `peers`, as `PairMeter` returns them.
            peers: the peers that are compared.
            known_classes: by peer the classes that it knows, where these are not all.
        """
        parts = [part for name in self._sizes for part in (self._confusion[name].to(self._dtype), self._bins_3K[name].flatten())]
        sums = self._comm.all_reduce_sum(torch.cat(parts)).cpu().split([len(part) for part in parts])
        members = {}
        for (name, size), confusion, bins in zip(self._sizes.items(), sums[::2], sums[1::2], strict=True):
            counts_K, confidences_K, hits_K = bins.view(3, NUM_BINS)
            matrix = confusion.long().view(size, size) if size else None
            members[name] = MemberDetails(matrix, Reliability(counts_K.long(), confidences_K, hits_K.long()), known_classes.get(name))
        agreement_PP, kl_PP = pair_matrices(pairs, peers)
        return EvaluationDetails(members, tuple(peers), agreement_PP, kl_PP)

    def _add_confusion(self, counts: Tensor, member: ScoredMember, size: int) -> None:
        cells_B = member.labels * size + member.predictions
        ones_B = torch.ones_like(cells_B) if member.is_counted_B is None else member.is_counted_B.long()
        counts.index_add_(0, cells_B, ones_B)  # bincount would make the host wait


def pair_matrices(pairs: Mapping[str, float], peers: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Returns agreement and divergence `[P, P]` of `peers`, float64, from a row `pairs` of scores as metrics.jsonl has it.

    Example:
        >>> agreement, kl = pair_matrices({"agreement/a/b": 0.75, "kl/a/b": 0.5, "kl/b/a": 0.25}, ["a", "b"])
        >>> agreement.tolist(), kl.tolist()
        ([[1.0, 0.75], [0.75, 1.0]], [[0.0, 0.5], [0.25, 0.0]])
    """
    agreement_PP, kl_PP = torch.eye(len(peers), dtype=torch.float64), torch.zeros(len(peers), len(peers), dtype=torch.float64)
    for row, a in enumerate(peers):
        for column, b in enumerate(peers):
            if a != b:
                agreement_PP[row, column] = pairs.get(f"agreement/{a}/{b}", pairs.get(f"agreement/{b}/{a}", math.nan))
                kl_PP[row, column] = pairs.get(f"kl/{a}/{b}", math.nan)
    return agreement_PP, kl_PP
