"""Contrastive losses between two peers' embeddings. Their negatives are the batches of all ranks: nothing outlives a step.

Shapes: B images of this process, N images of all processes (the B begin at `row_offset`), D width. Sources arrive detached.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutual.objectives.products import log_softmax_without, matmul
from mutual.objectives.shapes import Shape, to_vector, vector_width
from mutual.objectives.spec import Input, LossSpec, SourcePayload


class _Heads(nn.Module):
    """Two linear heads into one space, on whose unit sphere learner and source are compared."""

    def __init__(self, learner_shape: Shape, source_shape: Shape, dim: int) -> None:
        super().__init__()
        self.learner = nn.Linear(vector_width(learner_shape), dim)
        self.source = nn.Linear(vector_width(source_shape), dim)

    def forward(self, learner: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.learner(to_vector(learner)), dim=1), F.normalize(self.source(to_vector(source)), dim=1)


class ContrastiveRepresentationLoss(nn.Module):
    """CRD (arXiv:1910.10699, section 3) as InfoNCE: the source's embedding of the same image against those of images of other classes.

    The paper draws thousands of negatives from a memory of the whole training set; here they are the batches of all ranks, so
    that a step depends on nothing that a resumed run would have lost.
    """

    def __init__(self, learner_shape: Shape, source_shape: Shape, *, dim: int = 128, temperature: float = 0.07) -> None:
        super().__init__()
        self.temperature = temperature
        self.heads = _Heads(learner_shape, source_shape, dim)

    def forward(self, learner: Tensor, source: Tensor, classes_N: Tensor, row_offset: int) -> Tensor:
        """Returns the loss of `learner` `[B, ...]` against `source` `[N, ...]` with the class indices of all images."""
        learner_BD, source_ND = self.heads(learner, source)
        similarity_BN = matmul(learner_BD, source_ND.T) / self.temperature
        own = classes_N[row_offset : row_offset + len(learner)]
        also_own_BN = (own[:, None] == classes_N[None, :]) & ~_same_image(similarity_BN, row_offset)
        log_BN = F.log_softmax(similarity_BN.masked_fill(also_own_BN, -torch.inf), dim=1)
        return -log_BN.diagonal(row_offset).mean()  # of the same images


class MutualContrastiveLoss(nn.Module):
    """MCL between two peers (arXiv:2104.12565): interactive contrast, and mimicry of the source's own contrast.

    The learner's embedding is drawn to the source's embeddings of its class, the same image's among them, and away from the others;
    and the KL divergence brings its distribution over the other images to the source's own.
    """

    def __init__(self, learner_shape: Shape, source_shape: Shape, *, dim: int = 128, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature
        self.heads = _Heads(learner_shape, source_shape, dim)

    def forward(self, learner: Tensor, source: Tensor, classes_N: Tensor, row_offset: int) -> Tensor:
        """Returns the loss of `learner` `[B, ...]` against `source` `[N, ...]` with the class indices of all images."""
        learner_BD, source_ND = self.heads(learner, source)
        similarity_BN = matmul(learner_BD, source_ND.T) / self.temperature
        own = slice(row_offset, row_offset + len(learner))
        positive_BN = classes_N[own, None] == classes_N[None, :]
        log_BN = F.log_softmax(similarity_BN, dim=1)
        contrast = -((log_BN * positive_BN).sum(dim=1) / positive_BN.sum(dim=1)).mean()
        same_image_BN = _same_image(similarity_BN, row_offset)
        mimicked_BN = (matmul(source_ND[own], source_ND.T) / self.temperature).detach()
        learner_log, source_log = (log_softmax_without(each, same_image_BN) for each in (similarity_BN, mimicked_BN))
        return contrast + F.kl_div(learner_log, source_log, reduction="batchmean", log_target=True)


def _same_image(similarity_BN: Tensor, row_offset: int) -> Tensor:
    rows = torch.arange(similarity_BN.shape[1], device=similarity_BN.device)
    return rows[None, :] == row_offset + torch.arange(len(similarity_BN), device=similarity_BN.device)[:, None]


_INPUTS: tuple[Input, ...] = ("learner", "source", "classes", "row_offset")
LOSSES = {
    "crd": LossSpec(ContrastiveRepresentationLoss, _INPUTS, payload=SourcePayload.VECTOR),
    "mcl": LossSpec(MutualContrastiveLoss, _INPUTS, payload=SourcePayload.VECTOR),
}
