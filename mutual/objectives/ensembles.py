"""Ensembles: several peers' logits (detached) as the logits of one source.

Shapes: K peers, B images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 50
"""Steps of the search for KDCL's linear weights."""


def mean(logits_KBC: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean `[B, C]` of the peers' logits."""
    return logits_KBC.mean(dim=0)


def naive(logits_KBC: Tensor, labels: Tensor) -> Tensor:
    """KDCL-Naive (Guo et al., CVPR 2020): for each image the logits of the peer with the lowest cross-entropy."""
    loss_KB = torch.stack([F.cross_entropy(each, labels, reduction="none") for each in logits_KBC])
    return logits_KBC[loss_KB.argmin(dim=0), torch.arange(logits_KBC.shape[1], device=logits_KBC.device)]


def linear(logits_KBC: Tensor, labels: Tensor) -> Tensor:
    """KDCL-Linear (Guo et al., CVPR 2020): the convex combination of the peers with the lowest cross-entropy on the batch.

    The problem is convex; it is searched by exponentiated gradients from equal weights, and the best point on the way is taken.
    """
    target_BC = labels if labels.is_floating_point() else F.one_hot(labels, logits_KBC.shape[2]).to(logits_KBC.dtype)
    log_weight_K = logits_KBC.new_zeros(len(logits_KBC))
    best_loss, best_K = logits_KBC.new_full((), torch.inf), log_weight_K
    for step in range(_STEPS):
        weight_K = log_weight_K.softmax(dim=0)
        combined_BC = torch.einsum("k,kbc->bc", weight_K, logits_KBC)
        loss = F.cross_entropy(combined_BC, target_BC)
        best_K = torch.where(loss < best_loss, weight_K, best_K)
        best_loss = torch.minimum(loss, best_loss)
        gradient_K = ((combined_BC.softmax(dim=1) - target_BC) * logits_KBC).sum(dim=2).mean(dim=1)
        size = (gradient_K - gradient_K.mean()).abs().max().clamp(min=1e-12)
        log_weight_K = log_weight_K - gradient_K / size * (2 / (step + 1) ** 0.5)
    return torch.einsum("k,kbc->bc", best_K, logits_KBC)


def min_logit(logits_KBC: Tensor, labels: Tensor) -> Tensor:
    """KDCL-MinLogit (Guo et al., CVPR 2020): the lowest logit of each class, each peer's measured from its logit of the label."""
    classes = labels.argmax(dim=1) if labels.is_floating_point() else labels
    of_label_KB1 = logits_KBC.gather(2, classes[None, :, None].expand(len(logits_KBC), -1, 1))
    return (logits_KBC - of_label_KB1).amin(dim=0)


ENSEMBLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean, "naive": naive, "linear": linear, "min_logit": min_logit}
