"""Contrastive losses between two peers' embeddings. Their negatives are the batches of all ranks: nothing outlives a step.

Shapes: B images of this process, N images of all processes (the B begin at `row_offset`), D width; every loss is `[B]`. `mask_N`: True for
the images that count, None for all. The heads run in the precision that autocast gives, the rest in full precision. Sources arrive
detached.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutual.objectives.precision import in_full_precision
from mutual.objectives.predictions import lowest
from mutual.objectives.products import matmul
from mutual.objectives.shapes import Shape, to_vector, vector_width
from mutual.objectives.spec import Input, LossSpec, SourcePayload


class _Heads(nn.Module):
    """Two linear heads into one space, on whose unit sphere learner and source are compared."""

    def __init__(self, learner_shape: Shape, source_shape: Shape, dim: int) -> None:
        super().__init__()
        self.learner = nn.Linear(vector_width(learner_shape), dim)
        self.source = nn.Linear(vector_width(source_shape), dim)

    def forward(self, learner: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        return _unit(self.learner(to_vector(learner))), _unit(self.source(to_vector(source)))


class ContrastiveRepresentationLoss(nn.Module):
    """CRD (arXiv:1910.10699, section 3) as InfoNCE: the source's embedding of the same image against those of images of other classes.

    The paper draws thousands of negatives from a memory of the whole training set; here they are the batches of all ranks, so
    that a step depends on nothing that a resumed run would have lost.
    """

    def __init__(self, learner_shape: Shape, source_shape: Shape, *, dim: int = 128, temperature: float = 0.07) -> None:
        super().__init__()
        self.temperature = temperature
        self.heads = _Heads(learner_shape, source_shape, dim)

    def forward(self, learner: Tensor, source: Tensor, classes_N: Tensor, row_offset: int, mask_N: Tensor | None) -> Tensor:
        """Returns the loss of `learner` `[B, ...]` against `source` `[N, ...]` with the class indices of all images."""
        learner_BD, source_ND = self.heads(learner, source)
        return _info_nce(learner_BD, source_ND, classes_N, row_offset, mask_N, temperature=self.temperature)


class MutualContrastiveLoss(nn.Module):
    """MCL between two peers (arXiv:2104.12565): interactive contrast, and mimicry of the source's own contrast.

    The learner's embedding is drawn to the source's embeddings of its class, the same image's among them, and away from the others;
    and the KL divergence brings its distribution over the other images to the source's own.
    """

    def __init__(self, learner_shape: Shape, source_shape: Shape, *, dim: int = 128, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature
        self.heads = _Heads(learner_shape, source_shape, dim)

    def forward(self, learner: Tensor, source: Tensor, classes_N: Tensor, row_offset: int, mask_N: Tensor | None) -> Tensor:
        """Returns the loss of `learner` `[B, ...]` against `source` `[N, ...]` with the class indices of all images."""
        learner_BD, source_ND = self.heads(learner, source)
        return _contrast_and_mimicry(learner_BD, source_ND, classes_N, row_offset, mask_N, temperature=self.temperature)


@in_full_precision
def _info_nce(
    learner_BD: Tensor, source_ND: Tensor, classes_N: Tensor, row_offset: int, mask_N: Tensor | None, *, temperature: float
) -> Tensor:
    similarity_BN = matmul(learner_BD, source_ND.T) / temperature
    is_same_image_BN = _same_image(similarity_BN, row_offset)
    own_B = classes_N[row_offset : row_offset + len(learner_BD)]
    is_left_out_BN = _or_not_selected(own_B[:, None] == classes_N[None, :], mask_N) & ~is_same_image_BN
    log_BN = F.log_softmax(similarity_BN.masked_fill(is_left_out_BN, lowest(similarity_BN)), dim=1)
    return -log_BN.diagonal(row_offset)[: len(learner_BD)]


@in_full_precision
def _contrast_and_mimicry(
    learner_BD: Tensor, source_ND: Tensor, classes_N: Tensor, row_offset: int, mask_N: Tensor | None, *, temperature: float
) -> Tensor:
    similarity_BN = matmul(learner_BD, source_ND.T) / temperature
    own = slice(row_offset, row_offset + len(learner_BD))
    is_same_image_BN = _same_image(similarity_BN, row_offset)
    is_left_out_BN = _or_not_selected(torch.zeros_like(is_same_image_BN), mask_N) & ~is_same_image_BN
    is_positive_BN = (classes_N[own, None] == classes_N[None, :]) & ~is_left_out_BN
    log_BN = F.log_softmax(similarity_BN.masked_fill(is_left_out_BN, lowest(similarity_BN)), dim=1)
    contrast_B = -(log_BN * is_positive_BN).sum(dim=1) / is_positive_BN.sum(dim=1)
    mimicked_BN = (matmul(source_ND[own], source_ND.T) / temperature).detach()
    learner_log, source_log = (
        each.masked_fill(is_left_out_BN | is_same_image_BN, lowest(each)).log_softmax(dim=1) for each in (similarity_BN, mimicked_BN)
    )
    return contrast_B + (source_log.exp() * (source_log - learner_log)).sum(dim=1)


@in_full_precision
def _unit(rows_BD: Tensor) -> Tensor:
    return F.normalize(rows_BD, dim=1)


def _or_not_selected(is_left_out_BN: Tensor, mask_N: Tensor | None) -> Tensor:
    return is_left_out_BN if mask_N is None else is_left_out_BN | ~mask_N


def _same_image(similarity_BN: Tensor, row_offset: int) -> Tensor:
    rows = torch.arange(similarity_BN.shape[1], device=similarity_BN.device)
    return rows[None, :] == row_offset + torch.arange(len(similarity_BN), device=similarity_BN.device)[:, None]


_INPUTS: tuple[Input, ...] = ("learner", "source", "classes", "row_offset", "mask")
LOSSES = {
    "crd": LossSpec(ContrastiveRepresentationLoss, _INPUTS, payload=SourcePayload.VECTOR),
    "mcl": LossSpec(MutualContrastiveLoss, _INPUTS, payload=SourcePayload.VECTOR),
}
