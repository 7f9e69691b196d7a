"""Ensembles: several peers' logits (detached) as the logits of one source.

Shapes: K peers, B images, C classes; `...` stands for any number of ensembles, which are computed together. `mask_B`: True for the images
that count, None for all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mutual.objectives.predictions import Predictions
from mutual.objectives.products import einsum

_STEPS = 50
"""Steps of the search for KDCL's linear weights."""


def mean(logits_KBC: Tensor, labels: Tensor, mask_B: Tensor | None = None) -> Tensor:
    """Returns the mean `[..., B, C]` of the peers' logits `[..., K, B, C]`."""
    return logits_KBC.mean(dim=-3)


def naive(logits_KBC: Tensor, labels: Tensor, mask_B: Tensor | None = None) -> Tensor:
    """KDCL-Naive (Guo et al., CVPR 2020): for each image the logits of the peer with the lowest cross-entropy."""
    best_B = Predictions(logits_KBC).nll(labels).argmin(dim=-2)
    index = best_B[..., None, :, None].expand(*best_B.shape[:-1], 1, *logits_KBC.shape[-2:])
    return logits_KBC.gather(-3, index)[..., 0, :, :]


def linear(logits_KBC: Tensor, labels: Tensor, mask_B: Tensor | None = None) -> Tensor:
    """KDCL-Linear (Guo et al., CVPR 2020): the convex combination of the peers with the lowest cross-entropy on the batch.

    The problem is convex; it is searched by exponentiated gradients from equal weights, and the best point on the way is taken.
    """
    classes_C = torch.arange(logits_KBC.shape[-1], device=labels.device)
    target_BC = (labels if labels.is_floating_point() else labels[:, None] == classes_C).to(logits_KBC.dtype)
    weight_B = target_BC.new_ones(len(target_BC)) if mask_B is None else mask_B.to(target_BC.dtype)
    weight_B = weight_B / weight_B.sum().clamp(min=1)
    log_weight_K = logits_KBC.new_zeros(logits_KBC.shape[:-2])
    best_loss, best_K = logits_KBC.new_full(logits_KBC.shape[:-3], torch.inf), log_weight_K
    for step in range(_STEPS):
        weight_K = log_weight_K.softmax(dim=-1)
        combined_BC = _combined(weight_K, logits_KBC)
        log_BC = combined_BC.log_softmax(dim=-1)
        loss = -((log_BC * target_BC).sum(dim=-1) * weight_B).sum(dim=-1)
        is_best = loss < best_loss
        best_K = torch.where(is_best[..., None], weight_K, best_K)
        best_loss = torch.minimum(loss, best_loss)
        error_BC = (log_BC.exp() - target_BC) * weight_B[:, None]
        gradient_K = einsum("...kbc,...bc->...k", logits_KBC, error_BC)
        size = (gradient_K - gradient_K.mean(dim=-1, keepdim=True)).abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)
        log_weight_K = log_weight_K - gradient_K / size * (2 / (step + 1) ** 0.5)
    return _combined(best_K, logits_KBC)


def min_logit(logits_KBC: Tensor, labels: Tensor, mask_B: Tensor | None = None) -> Tensor:
    """KDCL-MinLogit (Guo et al., CVPR 2020): the lowest logit of each class, each peer's measured from its logit of the label."""
    classes_B = labels.argmax(dim=1) if labels.is_floating_point() else labels
    of_label_KB1 = logits_KBC.gather(-1, classes_B.expand(logits_KBC.shape[:-1])[..., None])
    return (logits_KBC - of_label_KB1).amin(dim=-3)


def _combined(weight_K: Tensor, logits_KBC: Tensor) -> Tensor:
    return (weight_K[..., None, None] * logits_KBC).sum(dim=-3)


ENSEMBLES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "mean": mean,
    "naive": naive,
    "linear": linear,
    "min_logit": min_logit,
}
