"""Losses on relations between the images of a batch; the two outputs may differ in width.

Shapes: B images, D features, N images of all processes. RKD's relations are those of this process' micro-batch, of flattened outputs; of
its source it reads the distances alone, `distances(output)`: they are what travels between processes. Those of `similarity` are between the
images of all processes. Sources arrive detached.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.objectives.predictions import lowest
from mutual.objectives.products import matmul
from mutual.objectives.shapes import any_shapes, to_vector
from mutual.objectives.spec import Input, LossSpec, SourcePayload

_SHORTEST = 1e-6
"""No two images are nearer; as in the reference."""


def distances(output: Tensor) -> Tensor:
    """Returns the Euclidean distances `[B, B]` between the images' outputs `[B, ...]`, from differences: exactly 0 between equal ones."""
    rows_BD = output.flatten(1)
    return torch.cdist(rows_BD, rows_BD, compute_mode="donot_use_mm_for_euclid_dist")


def rkd_distance(learner: Tensor, source_BB: Tensor, mask: Tensor | None) -> Tensor:
    """Relational KD, distances (arXiv:1904.05068, eq. 5 and 6): smooth L1 of all pairs' distances, each divided by their mean.

    `mask` `[B]` selects images; None: all.
    """
    source_BB, weight_BB = source_BB.clamp(min=_SHORTEST), _weights(mask, source_BB, dims=2)
    relative_BB = _relative_distances(learner.flatten(1), weight_BB)
    return _mean(F.smooth_l1_loss(relative_BB, _divided_by_mean(source_BB, weight_BB), reduction="none"), weight_BB)


def rkd_angle(learner: Tensor, source_BB: Tensor, mask: Tensor | None) -> Tensor:
    """Relational KD, angles (arXiv:1904.05068, eq. 7 and 8): smooth L1 of the cosines of all triples' angles.

    `mask` `[B]` selects images; None: all.
    """
    differences_BBB = F.smooth_l1_loss(_angle_cosines(learner.flatten(1)), _cosines_of(source_BB), reduction="none")
    return _mean(differences_BBB, _weights(mask, source_BB, dims=3))


def similarity(
    learner: Tensor,
    source: Tensor,
    row_offset: int,
    num_rows: int,
    mask: Tensor | None,
    *,
    temperature: float = 0.2,
    source_temperature: float = 0.01,
) -> Tensor:
    """SEED (arXiv:2101.04731, eq. 5) with the batch as its queue: the mean over this process' images of KL(source || learner).

    Each image's distribution is the softmax of its cosine similarities to the N - 1 other images of all processes, at the learner's and
    the source's own temperature. The paper compares both with the source's queue, for which the widths must agree, and minimises the
    cross-entropy, which differs by the source's entropy, a constant. The gradient is that of the sum over all N images, divided by
    `num_rows`: an image is compared with those of other processes, so that their divergences depend on it as well. `mask` `[N]` selects
    images; None: all.
    """
    log_learner, log_source = _log_similarities(learner, mask, temperature), _log_similarities(source, mask, source_temperature)
    divergence_N = (log_source.exp() * (log_source - log_learner)).sum(dim=1)
    own = slice(row_offset, row_offset + num_rows)
    weight_N = _weights(mask, divergence_N, dims=1)
    if weight_N is None:
        own_mean, others = divergence_N[own].mean(), divergence_N.sum() / num_rows
    else:
        divergence_N = divergence_N * weight_N
        num_selected = weight_N[own].sum().clamp(min=1)
        own_mean, others = divergence_N[own].sum() / num_selected, divergence_N.sum() / num_selected
    others = others - own_mean
    return own_mean + (others - others.detach())


def _log_similarities(output: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """Returns `[N, N]`: for each image the logarithms of its softmaxed cosine similarities to the others, of itself the lowest."""
    rows_ND = F.normalize(to_vector(output), dim=1)
    similarity_NN = matmul(rows_ND, rows_ND.T) / temperature
    is_left_out_NN = torch.eye(len(rows_ND), dtype=torch.bool, device=rows_ND.device)
    if mask is not None:
        is_left_out_NN = is_left_out_NN | ~mask
    return similarity_NN.masked_fill(is_left_out_NN, lowest(similarity_NN)).log_softmax(dim=1)


def _weights(mask: Tensor | None, like: Tensor, *, dims: int) -> Tensor | None:
    """Returns `[B] * dims`, 1 where all the images are selected and 0 elsewhere; None where all are."""
    if mask is None:
        return None
    weight_B = mask.to(like.dtype)
    weight = weight_B
    for _ in range(dims - 1):
        weight = weight[..., None] * weight_B
    return weight


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Returns the mean of the values with weight 1 and not 0; 0 where there is none."""
    return values.mean() if weights is None else (values * weights).sum() / weights.sum().clamp(min=1)


def _relative_distances(rows_BD: Tensor, weight_BB: Tensor | None) -> Tensor:
    """Returns `[B, B]` Euclidean distances divided by their mean, in which the diagonal counts, as in the reference."""
    square_B = rows_BD.pow(2).sum(dim=1)
    squared_BB = square_B[:, None] + square_B[None, :] - 2 * matmul(rows_BD, rows_BD.T)
    distance_BB = squared_BB.fill_diagonal_(0).clamp(min=_SHORTEST**2).sqrt()
    return _divided_by_mean(distance_BB, weight_BB)


def _divided_by_mean(distance_BB: Tensor, weight_BB: Tensor | None) -> Tensor:
    return distance_BB / _mean(distance_BB, weight_BB).clamp(min=_SHORTEST)  # it is smaller only where no image is selected


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


_INPUTS: tuple[Input, ...] = ("learner", "source", "mask")
_GATHERED: tuple[Input, ...] = ("learner", "source", "row_offset", "num_rows", "mask")
LOSSES = {
    "similarity": LossSpec(similarity, _GATHERED, any_shapes, per_image=False, payload=SourcePayload.VECTOR),
    "rkd_distance": LossSpec(rkd_distance, _INPUTS, any_shapes, per_image=False, payload=SourcePayload.DISTANCES),
    "rkd_angle": LossSpec(rkd_angle, _INPUTS, any_shapes, per_image=False, payload=SourcePayload.DISTANCES),
}
