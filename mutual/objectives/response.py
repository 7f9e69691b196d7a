"""Losses on logits: what a peer learns from the labels and from its sources' predictions.

Shapes: B images, C classes; `...` stands for any number of pairs of a learner and a source, which are computed together. A loss returns
`[..., B]`, each image's own (`dist`: `[...]`, one for all images), in nats; what it is in an update is the mean over the images. Sources
arrive detached.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.objectives.predictions import Predictions, lowest, nll_of
from mutual.objectives.products import einsum
from mutual.objectives.shapes import equal_logits
from mutual.objectives.spec import Input, LossSpec


def cross_entropy(learner: Predictions, labels: Tensor, *, label_smoothing: float = 0.0, class_weight: Tensor | None = None) -> Tensor:
    """Cross-entropy with the labels: class indices `[B]`, or probabilities `[B, C]` where images were mixed.

    Label smoothing takes `label_smoothing` from the labels and spreads it evenly over all C classes (arXiv:1512.00567, section 7).
    `class_weight` `[C]` multiplies the term of each class, as in torch; but the mean is over the images, and not divided by the weights of
    the batch's labels, so that no number depends on how a batch is cut.
    """
    nll = learner.nll(labels) if class_weight is None else _weighted_nll(learner.log_probs(), labels, class_weight)
    if not label_smoothing:
        return nll
    log_probs = learner.log_probs() if class_weight is None else learner.log_probs() * class_weight
    return (1 - label_smoothing) * nll - label_smoothing * log_probs.mean(dim=-1)


def focal(
    learner: Predictions, labels: Tensor, *, gamma: float = 2.0, alpha: float | Tensor | None = None, form: str = "softmax"
) -> Tensor:
    """Focal loss (arXiv:1708.02002, eq. 5): -alpha (1 - p)^gamma log p, with p the probability of what is true.

    `softmax`: of the label's class, with a weight `alpha` `[C]` for each class; of mixed labels the sum over the classes, weighted by the
    labels. `sigmoid`: of each class' being there or not, the mean over the classes, as torchvision's `sigmoid_focal_loss`, in which `alpha`
    weighs the classes that are there and 1 - alpha the others; a class index stands for one class that is there.
    """
    if form == "sigmoid":
        return _sigmoid_focal(learner.logits, labels, gamma=gamma, alpha=alpha)
    if labels.is_floating_point():
        log_probs = learner.log_probs()
        return nll_of(log_probs * _doubts(log_probs, gamma), labels if alpha is None else labels * alpha)
    nll = learner.nll(labels)
    losses = nll * _doubts(-nll, gamma)
    return losses if not isinstance(alpha, Tensor) else losses * alpha[labels]


def bce(learner: Predictions, labels_BC: Tensor, *, class_fraction: Tensor | None = None) -> Tensor:
    """Binary cross-entropy with several labels an image: `labels_BC` holds 1 where a class is there; the mean over the classes.

    `class_fraction` `[C]` is the fraction p of the training images that have each class: what is there weighs exp(1 - p), what is not
    exp(p) (DeepMAR, Li et al., ACPR 2015, eq. 4, with sigma 1).
    """
    logits = learner.logits
    losses = F.binary_cross_entropy_with_logits(logits, labels_BC.to(logits.dtype).expand_as(logits), reduction="none")
    if class_fraction is not None:
        losses = losses * torch.where(labels_BC > 0.5, 1 - class_fraction, class_fraction).exp()
    return losses.mean(dim=-1)


def kd(
    learner: Predictions, source: Predictions, *, temperature: float = 4.0, standardize: bool = False, reduction: str = "batchmean"
) -> Tensor:
    """T^2 KL(source || learner) of the probabilities softened by T (arXiv:1503.02531, section 2).

    The factor T^2 keeps the gradient's size independent of the temperature. `standardize` first brings each image's logits to mean 0 and
    standard deviation 1, so that the learner matches the source's relations and not its magnitudes (arXiv:2403.01427, eq. 9).
    `reduction: mean` divides by the number of classes as well, as torch's default of that name does: no KL divergence any more, but what
    some tutorials train with.
    """
    if standardize:
        learner, source = (Predictions(_standardized(each.logits)) for each in (learner, source))
    divergence = _kl(source, learner.log_probs(temperature), temperature) * temperature**2
    return divergence if reduction == "batchmean" else divergence / learner.logits.shape[-1]


def soft_label(learner: Predictions, source: Predictions, *, temperature: float = 1.0) -> Tensor:
    """T^2 times the cross-entropy of the learner with the source's softened probabilities as labels.

    It differs from `kd` by the source's entropy, a constant: the gradients are equal.
    """
    return (source.probs(temperature) * learner.log_probs(temperature)).sum(dim=-1) * -(temperature**2)


def dml(learner: Predictions, source: Predictions, *, form: str = "js", temperature: float = 1.0) -> Tensor:
    """Deep mutual learning (arXiv:1706.00384): the divergence of two peers' predictions, times T^2.

    `kl` is KL(source || learner), eq. 5 and 6 of the paper. `js` is half the Jeffreys divergence,
    (KL(p || q) + KL(q || p)) / 2, which PaddleClas' DMLLoss computes (it is not the Jensen-Shannon divergence). `sigmoid` is the same for
    each class as a yes or no of its own, summed over the classes: for images with several labels. `sigmoid_present` leaves out the noes,
    as PaddleClas does; `softmax` is `js`, for images with several labels as well.
    """
    if form == "kl":
        return kd(learner, source, temperature=temperature)
    if form in ("sigmoid", "sigmoid_present"):
        learner_logits, source_logits = learner.logits / temperature, source.logits / temperature
        logs = (learner_logits, source_logits) if form == "sigmoid" else (F.logsigmoid(learner_logits), F.logsigmoid(source_logits))
        jeffreys = (learner_logits.sigmoid() - source_logits.sigmoid()) * (logs[0] - logs[1])
    else:
        differences = learner.log_probs(temperature) - source.log_probs(temperature)
        jeffreys = (learner.probs(temperature) - source.probs(temperature)) * differences
    return jeffreys.sum(dim=-1) * (temperature**2 / 2)


def dkd(
    learner: Predictions, source: Predictions, classes_B: Tensor, *, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0
) -> Tensor:
    """Decoupled KD (arXiv:2203.08679, eq. 7), times T^2: alpha TCKD + beta NCKD.

    TCKD is the KL divergence of the two-way split "the label's class or another"; NCKD that of the other classes among themselves.
    """
    learner_log, source_log = (each.log_probs(temperature) for each in (learner, source))
    is_label_BC = classes_B[:, None] == torch.arange(learner_log.shape[-1], device=classes_B.device)
    learner_split, source_split = (_log_label_or_other(log, classes_B, is_label_BC) for log in (learner_log, source_log))
    tckd = (source_split.exp() * (source_split - learner_split)).sum(dim=-1)
    # leaving the label's class out of the softmax is the same as conditioning on the others
    others_learner, others_source = (log.masked_fill(is_label_BC, lowest(log)).log_softmax(dim=-1) for log in (learner_log, source_log))
    nckd = (others_source.exp() * (others_source - others_learner)).sum(dim=-1)
    return (alpha * tckd + beta * nckd) * temperature**2


def dist(
    learner: Predictions, source: Predictions, mask: Tensor | None, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """DIST (arXiv:2205.10536, eq. 8 to 10), times T^2: one minus Pearson's correlation of the probabilities, `[...]`.

    beta weighs the relations between classes (over the rows, images), gamma those within a class (over the columns); the second needs at
    least two images. `mask` `[..., B]` selects images; None: all.
    """
    probs = [learner.probs(temperature), source.probs(temperature)]
    weight = None if mask is None else mask[..., None].to(probs[0].dtype)
    between, within = _correlation(*probs, dim=-1), _correlation(*probs, dim=-2, weight=weight)
    between = 1 - (between.mean(dim=-1) if mask is None else mean_selected(between, mask))
    return (beta * between + gamma * (1 - within.mean(dim=-1))) * temperature**2


def wsl(learner: Predictions, source: Predictions, labels: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Weighted soft labels (arXiv:2102.00650, eq. 11), the distillation term: T^2 times a weighted cross-entropy with the source.

    The weight 1 - exp(-L_learner / L_source), of both peers' cross-entropies with the labels, damps images on which the source is
    the worse; no gradient flows through it.
    """
    soft = soft_label(learner, source, temperature=temperature)
    weight = 1 - torch.exp(-learner.nll(labels).detach() / (source.nll(labels) + 1e-7))
    return weight * soft


def skd(
    learner: Predictions, source: Predictions, labels: Tensor, *, temperature: float = 1.0, multiplier: float = 2.0, alpha: float = 0.9
) -> Tensor:
    """Spherical KD (arXiv:2010.07485, section 3): soft labels and labels, on logits of mean 0 and standard deviation `multiplier`.

    alpha times T^2 times the cross-entropy with the source plus (1 - alpha) times the cross-entropy with the labels: it carries
    its own ground-truth term, no other is needed.
    """
    learner, source = (Predictions(_standardized(each.logits) * multiplier) for each in (learner, source))
    return alpha * soft_label(learner, source, temperature=temperature) + (1 - alpha) * learner.nll(labels)


def ssld(learner: Predictions, source: Predictions, *, temperature: float = 1.0) -> Tensor:
    """SSLD (arXiv:2103.05959, section 3): T^2 times the Jensen-Shannon divergence of the two predictions, in nats; no labels.

    JS(p, q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2; at most log 2.
    """
    middle_log = torch.logaddexp(learner.log_probs(temperature), source.log_probs(temperature)) - math.log(2)
    return (_kl(learner, middle_log, temperature) + _kl(source, middle_log, temperature)) * (temperature**2 / 2)


def pairwise_kl(logits_PBC: Tensor) -> Tensor:
    """KL(p || q) `[P, P]` in nats, mean over the batch, for every ordered pair of P peers; the diagonal is 0."""
    log_PBC = torch.log_softmax(logits_PBC, dim=2)
    negative_entropy_P = (log_PBC.exp() * log_PBC).sum(dim=2).mean(dim=1)
    cross_PP = einsum("pbc,qbc->pq", log_PBC.exp(), log_PBC) / logits_PBC.shape[1]
    return negative_entropy_P[:, None] - cross_PP


def mean_selected(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean over the last dimension of the values that `mask` selects; 0 where it selects none."""
    total = torch.where(mask, values, 0.0).sum(dim=-1)
    return total / mask.sum(dim=-1).clamp(min=1)


_LEAST_DOUBT = 1e-12
"""Of 1 - p: the derivative of its power has no limit at 0."""


def _doubts(log_probs: Tensor, gamma: float) -> Tensor:
    """Returns (1 - p)^gamma."""
    return (-log_probs.expm1()).clamp(min=_LEAST_DOUBT).pow(gamma)


def _weighted_nll(log_probs: Tensor, labels: Tensor, weight_C: Tensor) -> Tensor:
    """Returns `[..., B]`: the weighted negative log-probability of each image's class, or of its classes."""
    if labels.is_floating_point():
        return nll_of(log_probs, labels * weight_C)
    return nll_of(log_probs, labels) * weight_C[labels]


def _sigmoid_focal(logits: Tensor, labels: Tensor, *, gamma: float, alpha: float | Tensor | None) -> Tensor:
    if not labels.is_floating_point():
        labels = labels[:, None] == torch.arange(logits.shape[-1], device=labels.device)
    targets = labels.to(logits.dtype).expand_as(logits)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probs = logits.sigmoid()
    doubts = probs + targets - 2 * probs * targets  # 1 - p of what is true
    losses = losses * doubts.clamp(min=_LEAST_DOUBT).pow(gamma)
    if alpha is not None:
        losses = losses * (alpha * targets + (1 - alpha) * (1 - targets))
    return losses.mean(dim=-1)


def _kl(first: Predictions, second_log: Tensor, temperature: float) -> Tensor:
    """Returns `[..., B]`: KL(first || second) of the softened probabilities."""
    return (first.probs(temperature) * (first.log_probs(temperature) - second_log)).sum(dim=-1)


def _standardized(logits: Tensor) -> Tensor:
    deviation = logits.std(dim=-1, keepdim=True, correction=0)
    return (logits - logits.mean(dim=-1, keepdim=True)) / (deviation + 1e-7)


def _log_label_or_other(log_probs: Tensor, classes_B: Tensor, is_label_BC: Tensor) -> Tensor:
    label = log_probs.gather(-1, classes_B.expand(log_probs.shape[:-1])[..., None])
    other = log_probs.masked_fill(is_label_BC, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([label, other], dim=-1)


def _correlation(a: Tensor, b: Tensor, *, dim: int, weight: Tensor | None = None) -> Tensor:
    """Returns Pearson's correlation over `dim`, of the entries that `weight` gives 1 and not 0."""
    if weight is None:
        centred_a, centred_b = (values - values.mean(dim=dim, keepdim=True) for values in (a, b))
    else:
        count = weight.sum(dim=dim, keepdim=True).clamp(min=1)
        centred_a, centred_b = ((values - (values * weight).sum(dim=dim, keepdim=True) / count) * weight for values in (a, b))
    return (centred_a * centred_b).sum(dim=dim) / (centred_a.norm(dim=dim) * centred_b.norm(dim=dim) + 1e-8)  # as the reference damps it


def _spec(function: Callable[..., Tensor], *inputs: Input, per_image: bool = True) -> LossSpec:
    return LossSpec(function, inputs or ("learner", "source"), check=equal_logits, on_logits=True, per_image=per_image)


LOSSES = {
    "cross_entropy": _spec(cross_entropy, "learner", "labels"),
    "focal": _spec(focal, "learner", "labels"),
    "bce": _spec(bce, "learner", "labels"),
    "kd": _spec(kd),
    "soft_label": _spec(soft_label),
    "dml": _spec(dml),
    "dkd": _spec(dkd, "learner", "source", "classes"),
    "dist": _spec(dist, "learner", "source", "mask", per_image=False),
    "wsl": _spec(wsl, "learner", "source", "labels"),
    "skd": _spec(skd, "learner", "source", "labels"),
    "ssld": _spec(ssld),
}
