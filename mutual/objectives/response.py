"""Losses on logits: what a peer learns from the labels and from its sources' predictions.

Shapes: B images, C classes; every loss is a scalar, the mean over the batch, in nats. Sources arrive detached.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(learner_BC: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels: class indices `[B]`, or probabilities `[B, C]` where images were mixed.

    Label smoothing takes `label_smoothing` from the labels and spreads it evenly over all C classes (arXiv:1512.00567, section 7).
    """
    return F.cross_entropy(learner_BC, labels, label_smoothing=label_smoothing)


def kd(learner_BC: Tensor, source_BC: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T^2 KL(source || learner) of the probabilities softened by T (arXiv:1503.02531, section 2).

    The factor T^2 keeps the gradient's size independent of the temperature.
    """
    learner_log = F.log_softmax(learner_BC / temperature, dim=1)
    source_log = F.log_softmax(source_BC / temperature, dim=1)
    return F.kl_div(learner_log, source_log, reduction="batchmean", log_target=True) * temperature**2


def soft_label(learner_BC: Tensor, source_BC: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 times the cross-entropy of the learner with the source's softened probabilities as labels.

    It differs from `kd` by the source's entropy, a constant: the gradients are equal.
    """
    return F.cross_entropy(learner_BC / temperature, F.softmax(source_BC / temperature, dim=1)) * temperature**2


def dml(learner_BC: Tensor, source_BC: Tensor, *, form: str = "js", temperature: float = 1.0) -> Tensor:
    """Deep mutual learning (arXiv:1706.00384): the divergence of two peers' predictions, times T^2.

    `kl` is KL(source || learner), eq. 5 and 6 of the paper. `js` is half the Jeffreys divergence,
    (KL(p || q) + KL(q || p)) / 2, which PaddleClas' DMLLoss computes (it is not the Jensen-Shannon divergence).
    """
    if form == "kl":
        return kd(learner_BC, source_BC, temperature=temperature)
    learner_log = F.log_softmax(learner_BC / temperature, dim=1)
    source_log = F.log_softmax(source_BC / temperature, dim=1)
    jeffreys_B = ((learner_log.exp() - source_log.exp()) * (learner_log - source_log)).sum(dim=1)
    return jeffreys_B.mean() * (temperature**2 / 2)


def pairwise_kl(logits_PBC: Tensor) -> Tensor:
    """KL(p || q) `[P, P]` in nats, mean over the batch, for every ordered pair of P peers; the diagonal is 0."""
    log_PBC = torch.log_softmax(logits_PBC, dim=2)
    negative_entropy_P = (log_PBC.exp() * log_PBC).sum(dim=2).mean(dim=1)
    cross_PP = torch.einsum("pbc,qbc->pq", log_PBC.exp(), log_PBC) / logits_PBC.shape[1]
    return negative_entropy_P[:, None] - cross_PP
