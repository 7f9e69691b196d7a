"""Losses on relations between the images of a batch; the two outputs may differ in width.

Shapes: B images, D features, N images of all processes. RKD's relations are those of this process' micro-batch, of flattened outputs; of
its source it reads the distances alone, `distances(output)`: they are what travels between processes. Those of `similarity` are between the
images of all processes. Sources arrive detached.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.objectives.products import log_softmax_without, matmul
from mutual.objectives.shapes import any_shapes, to_vector
from mutual.objectives.spec import LossSpec, SourcePayload

_SHORTEST = 1e-6
"""No two images are nearer; as in the reference."""


def distances(output: Tensor) -> Tensor:
    """Returns the Euclidean distances `[B, B]` between the images' outputs `[B, ...]`, from differences: exactly 0 between equal ones."""
    rows_BD = output.flatten(1)
    return torch.cdist(rows_BD, rows_BD, compute_mode="donot_use_mm_for_euclid_dist")


def rkd_distance(learner: Tensor, source_BB: Tensor) -> Tensor:
    """Relational KD, distances (arXiv:1904.05068, eq. 5 and 6): smooth L1 of all pairs' distances, each divided by their mean."""
    source_BB = source_BB.clamp(min=_SHORTEST)
    return F.smooth_l1_loss(_relative_distances(learner.flatten(1)), source_BB / source_BB.mean())


def rkd_angle(learner: Tensor, source_BB: Tensor) -> Tensor:
    """Relational KD, angles (arXiv:1904.05068, eq. 7 and 8): smooth L1 of the cosines of all triples' angles."""
    return F.smooth_l1_loss(_angle_cosines(learner.flatten(1)), _cosines_of(source_BB))


def similarity(
    learner: Tensor, source: Tensor, row_offset: int, num_rows: int, *, temperature: float = 0.2, source_temperature: float = 0.01
) -> Tensor:
    """SEED (arXiv:2101.04731, eq. 5) with the batch as its queue: the mean over this process' images of KL(source || learner).

    Each image's distribution is the softmax of its cosine similarities to the N - 1 other images of all processes, at the learner's and
    the source's own temperature. The paper compares both with the source's queue, for which the widths must agree, and minimises the
    cross-entropy, which differs by the source's entropy, a constant. The gradient is that of the sum over all N images, divided by
    `num_rows`: an image is compared with those of other processes, so that their divergences depend on it as well.
    """
    log_learner, log_source = _log_similarities(learner, temperature), _log_similarities(source, source_temperature)
    divergence_N = (log_source.exp() * (log_source - log_learner)).sum(dim=1)
    own = divergence_N[row_offset : row_offset + num_rows].mean()
    others = divergence_N.sum() / num_rows - own
    return own + (others - others.detach())


def _log_similarities(output: Tensor, temperature: float) -> Tensor:
    """Returns `[N, N]`: for each image the logarithms of its softmaxed cosine similarities to the others; 0 on the diagonal."""
    rows_ND = F.normalize(to_vector(output), dim=1)
    similarity_NN = matmul(rows_ND, rows_ND.T) / temperature
    return log_softmax_without(similarity_NN, torch.eye(len(rows_ND), dtype=torch.bool, device=rows_ND.device))


def _relative_distances(rows_BD: Tensor) -> Tensor:
    """Returns `[B, B]` Euclidean distances divided by their mean, in which the diagonal counts, as in the reference."""
    square_B = rows_BD.pow(2).sum(dim=1)
    squared_BB = square_B[:, None] + square_B[None, :] - 2 * matmul(rows_BD, rows_BD.T)
    distance_BB = squared_BB.fill_diagonal_(0).clamp(min=_SHORTEST**2).sqrt()
    return distance_BB / distance_BB.mean()


def _angle_cosines(rows_BD: Tensor) -> Tensor:
    """Returns `[B, B, B]`: at each image the cosine of the angle between the directions to two others."""
    direction_BBD = F.normalize(rows_BD[None, :] - rows_BD[:, None], dim=2)
    return matmul(direction_BBD, direction_BBD.transpose(1, 2))


def _cosines_of(distance_BB: Tensor) -> Tensor:
    """Returns the same by the law of cosines; 0 where a direction has no length."""
    square_BB = distance_BB.square()
    product_BBB = distance_BB[:, :, None] * distance_BB[:, None, :]
    cosine_BBB = (square_BB[:, :, None] + square_BB[:, None, :] - square_BB[None, :, :]) / (2 * product_BBB)
    return torch.where(product_BBB > 0, cosine_BBB, 0.0)


LOSSES = {
    "similarity": LossSpec(similarity, ("learner", "source", "row_offset", "num_rows"), check=any_shapes, payload=SourcePayload.VECTOR),
    "rkd_distance": LossSpec(rkd_distance, check=any_shapes, payload=SourcePayload.DISTANCES),
    "rkd_angle": LossSpec(rkd_angle, check=any_shapes, payload=SourcePayload.DISTANCES),
}
