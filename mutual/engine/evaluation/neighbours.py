"""knn_scores: peers without a head, scored by the nearest neighbours of the validation images among training images.

The weighted vote of DINO's evaluation (arXiv:2104.14294, appendix F): cosine similarities, 20 neighbours, weights exp(similarity / 0.07).
Shapes: N training images (the bank), B validation images, K neighbours, C classes, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.data import Batch, DataInfo
from mutual.engine.evaluation.embeddings import Embedded, embedded
from mutual.engine.monitoring import Scores
from mutual.group import Communicator, Group

NUM_NEIGHBOURS = 20
TEMPERATURE = 0.07
BANK_SIZE = 20_000
"""At most so many training images are compared with."""


def neighbour_votes(
    bank_ND: Tensor, classes_N: Tensor, queries_BD: Tensor, *, num_classes: int, k: int = NUM_NEIGHBOURS, temperature: float = TEMPERATURE
) -> Tensor:
    """Returns `[B, C]`, each image's probabilities: the weighted votes of its `k` nearest neighbours, divided by their sum.

    Example:
        >>> bank, queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), torch.tensor([[0.0, 3.0]])
        >>> neighbour_votes(bank, torch.tensor([0, 1, 1]), queries, num_classes=3, k=2)
        tensor([[0., 1., 0.]])
    """
    return _votes(F.normalize(bank_ND, dim=1), classes_N, queries_BD, num_classes=num_classes, k=k, temperature=temperature)


def _votes(
    unit_ND: Tensor, classes_N: Tensor, queries_BD: Tensor, *, num_classes: int, k: int = NUM_NEIGHBOURS, temperature: float = TEMPERATURE
) -> Tensor:
    """Returns what `neighbour_votes` does, of a bank whose rows have length 1."""
    similarity_BN = F.normalize(queries_BD, dim=1) @ unit_ND.T
    nearest = similarity_BN.topk(min(k, len(unit_ND)))
    weight_BK = torch.softmax(nearest.values / temperature, dim=1)
    return weight_BK.new_zeros(len(queries_BD), num_classes).scatter_add_(1, classes_N[nearest.indices], weight_BK)


@torch.no_grad()
def knn_scores(
    group: Group,
    bank_batches: Iterable[Batch],
    val_batches: Iterable[Batch],
    info: DataInfo,
    comm: Communicator,
    *,
    names: tuple[str, ...],
) -> Scores:
    """Returns top1, and with more than five classes top5, as fractions, of each peer without a head.

    Each validation image is counted once over all ranks. A class without a vote is none of the first five.

    Collective: all ranks must call it.

    Args:
        group: the peers.
        bank_batches: this rank's shard of the labelled training images, as `DataModule.sample_batches` yields it.
        val_batches: this rank's shard of the validation images.
        info: of the data, whose images have one class each.
        comm: all processes.
        names: all peers without a head, on whichever ranks they are.
    """
    bank = list(embedded(group, bank_batches, device=comm.device))
    banks = {name: _gather_bank(name, bank, group, comm) for name in names}
    hits = {name: torch.zeros(3, dtype=torch.int64, device=comm.device) for name in names}
    for batch in embedded(group, val_batches, device=comm.device):
        for name, embedding_BD in batch.embeddings.items():
            votes_BC = _votes(*banks[name], embedding_BD, num_classes=info.num_classes)
            hits[name] += _count_hits(votes_BC, batch.labels)
    scores = {}
    for name in names:
        top1, top5, num_images = comm.all_reduce_sum(hits[name]).tolist()
        scores[name] = {"top1": top1 / max(num_images, 1)}
        if info.num_classes > 5:
            scores[name]["top5"] = top5 / max(num_images, 1)
    return scores


def _gather_bank(name: str, bank: list[Embedded], group: Group, comm: Communicator) -> tuple[Tensor, Tensor]:
    """Returns the bank's embeddings `[N, D]` of a peer, of length 1, and its classes `[N]`, of all ranks, in the order of the images."""
    width, dtype = group.embedding_spec(name)
    held = [batch for batch in bank if name in batch.embeddings]  # none on a rank that does not send the peer's outputs
    none = torch.zeros(0, dtype=torch.int64, device=comm.device)
    local = [
        torch.cat([torch.zeros(0, width, dtype=dtype, device=comm.device), *(batch.embeddings[name] for batch in held)]),
        torch.cat([none, *(batch.labels for batch in held)]),
        torch.cat([none, *(batch.positions for batch in held)]),
    ]
    (rows_ND, classes_N, positions_N), _ = comm.all_gather_rows(local)
    order = positions_N.argsort()
    return F.normalize(rows_ND[order], dim=1), classes_N[order]


def _count_hits(votes_BC: Tensor, labels: Tensor) -> Tensor:
    """Returns how many images have their class first, how many among the first five, and how many there are."""
    vote_B = votes_BC.gather(1, labels[:, None])[:, 0]
    is_first_B = votes_BC.argmax(dim=1) == labels
    is_among_five_B = (vote_B > 0) & ((votes_BC > vote_B[:, None]).sum(dim=1) < 5)
    num_first = is_first_B.sum()
    return torch.stack([num_first, is_among_five_B.sum(), torch.full_like(num_first, len(labels))])
