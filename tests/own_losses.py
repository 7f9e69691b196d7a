"""Losses that recipes of the tests name `own_losses:...`: those of ours written anew, and others with a way of their own to go wrong."""

import functools
import random

import torch
import torch.nn.functional as F
from torch import nn

import mutual
from mutual.objectives.adapters import MaskedGenerationLoss
from mutual.objectives.contrast import ContrastiveRepresentationLoss
from mutual.objectives.relation import distances, rkd_distance
from mutual.objectives.relation import similarity as ours_similarity


def kd(learner_BC, source_BC, *, temperature=4.0):
    log_p, log_q = (F.log_softmax(each / temperature, dim=1) for each in (source_BC, learner_BC))
    return (log_p.exp() * (log_p - log_q)).sum(dim=1) * temperature**2


@mutual.loss(on_logits=True, label_type="single")
def kd_together(learner, source, *, temperature=4.0):
    log_p, log_q = (F.log_softmax(each / temperature, dim=-1) for each in (source, learner))
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1) * temperature**2


def kd_mean(learner, source, *, temperature=4.0):
    return kd(learner, source, temperature=temperature).mean()


def kd_masked(learner, source, mask, *, temperature=4.0):
    losses = kd(learner, source, temperature=temperature)
    return losses.mean() if mask is None else (losses * mask).sum() / mask.sum().clamp(min=1)


def kd_of_list(learner, source, *, temperature):
    return kd(learner, source, temperature=temperature[0])


kd_at_two = functools.partial(kd, temperature=2.0)


def wsl(learner, source, labels, *, temperature=2.0):
    soft = -(F.softmax(source / temperature, dim=1) * F.log_softmax(learner / temperature, dim=1)).sum(dim=1) * temperature**2
    learner_nll, source_nll = (F.cross_entropy(each, labels, reduction="none") for each in (learner, source))
    return (1 - torch.exp(-learner_nll.detach() / (source_nll + 1e-7))) * soft


def cross_entropy(learner, labels, *, label_smoothing=0.0):
    return F.cross_entropy(learner, labels, label_smoothing=label_smoothing, reduction="none")


@mutual.loss(label_type="multi", outputs="logits")
def bce(learner, labels):
    return F.binary_cross_entropy_with_logits(learner, labels.to(learner.dtype), reduction="none").mean(dim=1)


class Hint(nn.Module):
    def __init__(self, learner_shape, source_shape):
        super().__init__()
        self.regressor = nn.Conv2d(learner_shape[0], source_shape[0], 1, padding="same")

    def forward(self, learner, source):
        return F.mse_loss(self.regressor(learner), source, reduction="none").flatten(1).mean(dim=1)


class Contrast(ContrastiveRepresentationLoss):
    """Reads the source's outputs and the classes of all processes."""


class Masked(MaskedGenerationLoss):
    """Draws, and says nothing of it."""


def similarity(learner, source, row_offset, num_rows, mask):
    return ours_similarity(learner, source, row_offset, num_rows, mask)


def relation(learner, source, mask):
    return rkd_distance(learner, distances(source), mask)


class Centres(nn.Module):
    """Ground truth with weights, at features: the distance to a learned centre of the image's class (Wen et al., ECCV 2016)."""

    def __init__(self, learner_shape, *, num_classes=4):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(num_classes, learner_shape[0]))

    def forward(self, learner, classes):
        return (learner.mean(dim=(2, 3)) - self.centres[classes]).square().mean(dim=1)


@mutual.loss(reads=("source", "learner"), per_image=True)
def swapped(theirs, ours):
    return kd(ours, theirs)


@mutual.loss(multi_output=True, outputs="maps")
def sum_of_outputs(learner, source):
    return sum((a - b).square().flatten(1).mean(dim=1) for a, b in zip(learner, source, strict=True))


def dtype_of(learner, source):
    seen.append((learner.dtype, source.dtype, torch.is_autocast_enabled("cpu"), (learner[:1] @ learner[:1].T).dtype))
    return (learner - source).square().mean(dim=1)


seen: list[object] = []


class Precise(nn.Module):
    def __init__(self, learner_shape, source_shape):
        super().__init__()
        self.linear = nn.Linear(learner_shape[0], source_shape[0])

    def forward(self, learner, source):
        regressed = self.linear(learner)
        seen.append((learner.dtype, source.dtype, torch.is_autocast_enabled("cpu"), regressed.dtype))
        return (regressed - source).square().mean(dim=1)


def greedy(learner, source):
    """Asks for a gradient of its source."""
    seen.append(source.requires_grad)
    return (learner - source).square().mean(dim=1)


class Spare(nn.Module):
    """Has weights that nothing depends on."""

    def __init__(self, learner_shape, source_shape):
        super().__init__()
        self.used, self.spare = nn.Linear(learner_shape[0], source_shape[0]), nn.Linear(2, 2)

    def forward(self, learner, source):
        return (self.used(learner) - source).square().mean(dim=1)


# ways to go wrong
def number(learner, source):
    return (learner - source).square().mean().item()


def nothing(learner, source):
    return None


def of_classes(learner, source):
    return (learner - source).square()


def counting(learner, labels):
    return (learner.argmax(dim=1) == labels).sum()


def detached(learner, labels):
    return F.cross_entropy(learner.detach(), labels)


def not_finite(learner, source):
    return (learner.sum(dim=1) - learner.sum(dim=1)) / 0 * source.sum(dim=1)


def steep(learner, source):
    return (learner - learner).abs().sum(dim=1).sqrt() + 0 * source.sum(dim=1)


def in_place(learner, source):
    return (learner - source.mul_(2)).square().mean(dim=1)


def leaving(learner, source):
    raise SystemExit(3)


def failing(learner, source):
    raise KeyError("no such thing")


def drawing(learner, source):
    return (learner - source).square().mean(dim=1) * random.random()


def noisy(learner, source):
    return ((learner - source).square() * torch.rand_like(learner)).mean(dim=1)


@mutual.loss(on_logits=True)
def noisy_together(learner, source):
    return ((learner - source).square() * torch.rand_like(source)).mean(dim=-1)


def added(learner, labels):
    return F.cross_entropy(learner, labels, reduction="sum")


@mutual.loss(per_image=True)
def declared_otherwise(learner, labels):
    return F.cross_entropy(learner, labels)


@mutual.loss(on_logits=True)
def not_of_pairs(learner, source):
    return (F.log_softmax(learner, dim=0) - source).square().sum(dim=-1)


@mutual.loss(on_logits=True)
def of_two_dimensions(learner, source):
    return F.cross_entropy(learner, source.softmax(dim=1), reduction="none")


def without_learner(logits, labels):
    return F.cross_entropy(logits, labels)


def argument_first(temperature, learner, source):
    return (learner - source).square().mean(dim=1) * temperature


def input_last(learner, *, temperature, source):
    return (learner - source).square().mean(dim=1) * temperature


def input_after(learner, temperature=1.0, labels=None):
    return (learner / temperature).square().mean(dim=1)


def by_keyword(*, learner, source):
    return (learner - source).square().mean(dim=1)


def needy(learner, source, *, temperature):
    return (learner - source).square().mean(dim=1) * temperature


def of_rows(learner, source, num_rows):
    return (learner - source).square().mean(dim=1)[:num_rows]


@mutual.loss(reads=("learner", "source", "labels"))
def too_few(learner, source):
    return (learner - source).square().mean(dim=1)


@mutual.loss(on_logits=True)
class TogetherModule(nn.Module):
    def forward(self, learner, source):
        return (learner - source).square().mean(dim=-1)


@mutual.loss(on_logits=True)
def together_gathered(learner, source, row_offset):
    return (learner - source).square().mean(dim=-1)


class NoModule:
    def __call__(self, learner, source):
        return (learner - source).square().mean(dim=1)


class BrokenModule(nn.Module):
    def __init__(self, learner_shape, source_shape):
        raise ValueError("needs a smaller net")

    def forward(self, learner, source):
        return (learner - source).square().mean(dim=1)


called = NoModule()
made = Hint((4,), (4,))
