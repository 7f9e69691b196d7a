"""Losses on relations between the images of a batch; the two outputs may differ in width.

Shapes: B images, D and E features (outputs are flattened). The relations are those of this process' micro-batch. Sources arrive detached.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rkd_distance(learner: Tensor, source: Tensor) -> Tensor:
    """Relational KD, distances (arXiv:1904.05068, eq. 5 and 6): smooth L1 of all pairs' distances, each divided by their mean."""
    return F.smooth_l1_loss(_relative_distances(learner.flatten(1)), _relative_distances(source.flatten(1)))


def rkd_angle(learner: Tensor, source: Tensor) -> Tensor:
    """Relational KD, angles (arXiv:1904.05068, eq. 7 and 8): smooth L1 of the cosines of all triples' angles."""
    return F.smooth_l1_loss(_angle_cosines(learner.flatten(1)), _angle_cosines(source.flatten(1)))


def _relative_distances(rows_BD: Tensor) -> Tensor:
    """Returns `[B, B]` Euclidean distances divided by their mean, in which the diagonal counts, as in the reference."""
    square_B = rows_BD.pow(2).sum(dim=1)
    squared_BB = square_B[:, None] + square_B[None, :] - 2 * rows_BD @ rows_BD.T
    distance_BB = squared_BB.fill_diagonal_(0).clamp(min=1e-12).sqrt()
    return distance_BB / distance_BB.mean()


def _angle_cosines(rows_BD: Tensor) -> Tensor:
    """Returns `[B, B, B]`: at each image the cosine of the angle between the directions to two others."""
    direction_BBD = F.normalize(rows_BD[None, :] - rows_BD[:, None], dim=2)
    return direction_BBD @ direction_BBD.transpose(1, 2)
