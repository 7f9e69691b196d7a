"""Losses on logits: what a peer learns from the labels and from its sources' predictions.

Shapes: B images, C classes; every loss is a scalar, the mean over the batch, in nats. Sources arrive detached.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.objectives.spec import LossSpec


def cross_entropy(learner_BC: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels: class indices `[B]`, or probabilities `[B, C]` where images were mixed.

    Label smoothing takes `label_smoothing` from the labels and spreads it evenly over all C classes (arXiv:1512.00567, section 7).
    """
    return F.cross_entropy(learner_BC, labels, label_smoothing=label_smoothing)


def bce(learner_BC: Tensor, labels_BC: Tensor) -> Tensor:
    """Binary cross-entropy with several labels an image: `labels_BC` holds 1 where a class is there; the mean over classes and images."""
    return F.binary_cross_entropy_with_logits(learner_BC, labels_BC.to(learner_BC.dtype))


def kd(
    learner_BC: Tensor, source_BC: Tensor, *, temperature: float = 4.0, standardize: bool = False, reduction: str = "batchmean"
) -> Tensor:
    """T^2 KL(source || learner) of the probabilities softened by T (arXiv:1503.02531, section 2).

    The factor T^2 keeps the gradient's size independent of the temperature. `standardize` first brings each image's logits to mean 0 and
    standard deviation 1, so that the learner matches the source's relations and not its magnitudes (arXiv:2403.01427, eq. 9).
    `reduction: mean` divides by the number of classes as well, as torch's default of that name does: no KL divergence any more, but what
    some tutorials train with.
    """
    if standardize:
        learner_BC, source_BC = _standardized(learner_BC), _standardized(source_BC)
    learner_log = F.log_softmax(learner_BC / temperature, dim=1)
    source_log = F.log_softmax(source_BC / temperature, dim=1)
    divergence = F.kl_div(learner_log, source_log, reduction="batchmean", log_target=True) * temperature**2
    return divergence if reduction == "batchmean" else divergence / learner_BC.shape[1]


def soft_label(learner_BC: Tensor, source_BC: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 times the cross-entropy of the learner with the source's softened probabilities as labels.

    It differs from `kd` by the source's entropy, a constant: the gradients are equal.
    """
    return F.cross_entropy(learner_BC / temperature, F.softmax(source_BC / temperature, dim=1)) * temperature**2


def dml(learner_BC: Tensor, source_BC: Tensor, *, form: str = "js", temperature: float = 1.0) -> Tensor:
    """Deep mutual learning (arXiv:1706.00384): the divergence of two peers' predictions, times T^2.

    `kl` is KL(source || learner), eq. 5 and 6 of the paper. `js` is half the Jeffreys divergence,
    (KL(p || q) + KL(q || p)) / 2, which PaddleClas' DMLLoss computes (it is not the Jensen-Shannon divergence). `sigmoid` is the same for
    each class as a yes or no of its own, summed over the classes: for images with several labels. (PaddleClas' leaves out the noes.)
    """
    if form == "kl":
        return kd(learner_BC, source_BC, temperature=temperature)
    if form == "sigmoid":
        learner, source = learner_BC / temperature, source_BC / temperature
        jeffreys_BC = (learner.sigmoid() - source.sigmoid()) * (learner - source)
        return jeffreys_BC.sum(dim=1).mean() * (temperature**2 / 2)
    learner_log = F.log_softmax(learner_BC / temperature, dim=1)
    source_log = F.log_softmax(source_BC / temperature, dim=1)
    jeffreys_B = ((learner_log.exp() - source_log.exp()) * (learner_log - source_log)).sum(dim=1)
    return jeffreys_B.mean() * (temperature**2 / 2)


def dkd(
    learner_BC: Tensor, source_BC: Tensor, classes_B: Tensor, *, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0
) -> Tensor:
    """Decoupled KD (arXiv:2203.08679, eq. 7), times T^2: alpha TCKD + beta NCKD.

    TCKD is the KL divergence of the two-way split "the label's class or another"; NCKD that of the other classes among themselves.
    """
    is_label_BC = F.one_hot(classes_B, learner_BC.shape[1]).bool()
    learner_log, source_log = (F.log_softmax(logits / temperature, dim=1) for logits in (learner_BC, source_BC))
    learner_split, source_split = (_log_label_or_other(log, is_label_BC) for log in (learner_log, source_log))
    tckd = F.kl_div(learner_split, source_split, reduction="batchmean", log_target=True)
    # leaving the label's class out of the softmax is the same as conditioning on the others
    others_learner, others_source = (log[~is_label_BC].view(len(log), -1).log_softmax(dim=1) for log in (learner_log, source_log))
    nckd = F.kl_div(others_learner, others_source, reduction="batchmean", log_target=True)
    return (alpha * tckd + beta * nckd) * temperature**2


def dist(learner_BC: Tensor, source_BC: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> Tensor:
    """DIST (arXiv:2205.10536, eq. 8 to 10), times T^2: one minus Pearson's correlation of the probabilities.

    beta weighs the relations between classes (over the rows, images), gamma those within a class (over the columns); the second needs at
    least two images.
    """
    learner, source = (F.softmax(logits / temperature, dim=1) for logits in (learner_BC, source_BC))
    between, within = _pearson_distance(learner, source), _pearson_distance(learner.T, source.T)
    return (beta * between + gamma * within) * temperature**2


def wsl(learner_BC: Tensor, source_BC: Tensor, labels: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Weighted soft labels (arXiv:2102.00650, eq. 11), the distillation term: T^2 times a weighted cross-entropy with the source.

    The weight 1 - exp(-L_learner / L_source), of both peers' cross-entropies with the labels, damps images on which the source is
    the worse; no gradient flows through it.
    """
    soft_B = -(F.softmax(source_BC / temperature, dim=1) * F.log_softmax(learner_BC / temperature, dim=1)).sum(dim=1)
    hard_learner_B = F.cross_entropy(learner_BC.detach(), labels, reduction="none")
    hard_source_B = F.cross_entropy(source_BC, labels, reduction="none")
    weight_B = 1 - torch.exp(-hard_learner_B / (hard_source_B + 1e-7))
    return (weight_B * soft_B).mean() * temperature**2


def skd(
    learner_BC: Tensor, source_BC: Tensor, labels: Tensor, *, temperature: float = 1.0, multiplier: float = 2.0, alpha: float = 0.9
) -> Tensor:
    """Spherical KD (arXiv:2010.07485, section 3): soft labels and labels, on logits of mean 0 and standard deviation `multiplier`.

    alpha times T^2 times the cross-entropy with the source plus (1 - alpha) times the cross-entropy with the labels: it carries
    its own ground-truth term, no other is needed.
    """
    learner, source = (_standardized(logits) * multiplier for logits in (learner_BC, source_BC))
    return alpha * soft_label(learner, source, temperature=temperature) + (1 - alpha) * F.cross_entropy(learner, labels)


def ssld(learner_BC: Tensor, source_BC: Tensor, *, temperature: float = 1.0) -> Tensor:
    """SSLD (arXiv:2103.05959, section 3): T^2 times the Jensen-Shannon divergence of the two predictions, in nats; no labels.

    JS(p, q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2; at most log 2.
    """
    learner_log, source_log = (F.log_softmax(logits / temperature, dim=1) for logits in (learner_BC, source_BC))
    middle_log = torch.logaddexp(learner_log, source_log) - math.log(2)
    kl = [F.kl_div(middle_log, log, reduction="batchmean", log_target=True) for log in (learner_log, source_log)]
    return (kl[0] + kl[1]) * (temperature**2 / 2)


def pairwise_kl(logits_PBC: Tensor) -> Tensor:
    """KL(p || q) `[P, P]` in nats, mean over the batch, for every ordered pair of P peers; the diagonal is 0."""
    log_PBC = torch.log_softmax(logits_PBC, dim=2)
    negative_entropy_P = (log_PBC.exp() * log_PBC).sum(dim=2).mean(dim=1)
    cross_PP = torch.einsum("pbc,qbc->pq", log_PBC.exp(), log_PBC) / logits_PBC.shape[1]
    return negative_entropy_P[:, None] - cross_PP


def _standardized(logits_BC: Tensor) -> Tensor:
    deviation = logits_BC.std(dim=1, keepdim=True, correction=0)
    return (logits_BC - logits_BC.mean(dim=1, keepdim=True)) / (deviation + 1e-7)


def _log_label_or_other(log_BC: Tensor, is_label_BC: Tensor) -> Tensor:
    other_B = log_BC[~is_label_BC].view(len(log_BC), -1).logsumexp(dim=1)
    return torch.stack([log_BC[is_label_BC], other_B], dim=1)


def _pearson_distance(a: Tensor, b: Tensor) -> Tensor:
    """Returns one minus the mean over the rows of Pearson's correlation."""
    centred_a, centred_b = (rows - rows.mean(dim=1, keepdim=True) for rows in (a, b))
    correlation = (centred_a * centred_b).sum(dim=1) / (centred_a.norm(dim=1) * centred_b.norm(dim=1) + 1e-8)  # as the reference damps it
    return 1 - correlation.mean()


LOSSES = {
    "cross_entropy": LossSpec(cross_entropy, ("learner", "labels")),
    "bce": LossSpec(bce, ("learner", "labels")),
    "kd": LossSpec(kd),
    "soft_label": LossSpec(soft_label),
    "dml": LossSpec(dml),
    "dkd": LossSpec(dkd, ("learner", "source", "classes")),
    "dist": LossSpec(dist),
    "wsl": LossSpec(wsl, ("learner", "source", "labels")),
    "skd": LossSpec(skd, ("learner", "source", "labels")),
    "ssld": LossSpec(ssld),
}
