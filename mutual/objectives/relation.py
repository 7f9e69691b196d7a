"""Losses on relations between the images of a batch; the two outputs may differ in width.

Shapes: B images, D features (outputs are flattened). The relations are those of this process' micro-batch. Of its source a loss reads the
distances alone, `distances(output)`: they are what travels between processes. Sources arrive detached.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.objectives.shapes import any_shapes
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


def _relative_distances(rows_BD: Tensor) -> Tensor:
    """Returns `[B, B]` Euclidean distances divided by their mean, in which the diagonal counts, as in the reference."""
    square_B = rows_BD.pow(2).sum(dim=1)
    squared_BB = square_B[:, None] + square_B[None, :] - 2 * rows_BD @ rows_BD.T
    distance_BB = squared_BB.fill_diagonal_(0).clamp(min=_SHORTEST**2).sqrt()
    return distance_BB / distance_BB.mean()


def _angle_cosines(rows_BD: Tensor) -> Tensor:
    """Returns `[B, B, B]`: at each image the cosine of the angle between the directions to two others."""
    direction_BBD = F.normalize(rows_BD[None, :] - rows_BD[:, None], dim=2)
    return direction_BBD @ direction_BBD.transpose(1, 2)


def _cosines_of(distance_BB: Tensor) -> Tensor:
    """Returns the same by the law of cosines; 0 where a direction has no length."""
    square_BB = distance_BB.square()
    product_BBB = distance_BB[:, :, None] * distance_BB[:, None, :]
    cosine_BBB = (square_BB[:, :, None] + square_BB[:, None, :] - square_BB[None, :, :]) / (2 * product_BBB)
    return torch.where(product_BBB > 0, cosine_BBB, 0.0)


LOSSES = {
    "rkd_distance": LossSpec(rkd_distance, check=any_shapes, payload=SourcePayload.DISTANCES),
    "rkd_angle": LossSpec(rkd_angle, check=any_shapes, payload=SourcePayload.DISTANCES),
}
