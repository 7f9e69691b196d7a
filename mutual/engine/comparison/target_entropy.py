"""Entropy of what a method's learners learn from, and the label smoothing that gives labels the same.

Shapes: B images, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mutual.engine.costs import measured_training, source_peers
from mutual.objectives import ENSEMBLES
from mutual.recipe import ENSEMBLE, LOGITS, DistillationObjective, Recipe, peer_of

_MAX_IMAGES = 10_000
"""The mean over so many training images is known to within a percent."""
_DIGITS = 4
"""Of label smoothing: last digits of a forward shall not make another recipe."""


@dataclass(frozen=True)
class TargetEntropy:
    """Mean entropies over training images, in nats.

    Attributes:
        learners: the peers that learn from the logits of others, over which the mean is taken.
        sources: of what these say, at the temperatures of the losses.
        targets: of the mixture of that with the labels, by the weights of the objectives.
        num_classes: number of classes.
    """

    learners: tuple[str, ...]
    sources: float
    targets: float
    num_classes: int


def teaching_objectives(recipe: Recipe, learner: str) -> list[DistillationObjective]:
    """Returns the objectives in which `learner` learns from the probabilities that others give the classes."""
    return [
        each
        for each in recipe.objectives
        if isinstance(each, DistillationObjective)
        and learner in recipe.learners_of(each)
        and each.weight > 0
        and each.gate != "cutoff"
        and recipe.reads_of(each) == "logits"
        and each.at_of(learner) == (LOGITS,)
        and all(source == ENSEMBLE or each.source_at_of(peer_of(source)) == (LOGITS,) for source in recipe.sources_of(each, learner))
    ]


def measure_target_entropy(recipe: Recipe, weights: Mapping[str, Path]) -> TargetEntropy:
    """Measures what learners learn from on up to 10,000 labelled training images, prepared as those of validation are.

    Args:
        recipe: of the method.
        weights: by trained peer its weights at the end.

    Raises:
        RecipeError: a model, its weights or the data do not fit.
        ValueError: a source knows only some of the classes.
    """
    learners = tuple(name for name in recipe.trainable if teaching_objectives(recipe, name))
    trained = {name: recipe.peers[name].model_copy(update={"weights": str(file)}) for name, file in weights.items()}
    sums, num_images = torch.zeros(2, dtype=torch.float64), 0
    measured = recipe.model_copy(update={"peers": {**recipe.peers, **trained}})
    with measured_training(measured, loads_images=True) as (training, device):
        group, num_classes = training.group, training.data.info.num_classes
        names = [name for name in recipe.classifiers if name in source_peers(recipe)]
        partial = [name for name in names if name in group.known_classes]
        if partial:
            raise ValueError(f"{partial[0]} knows only some of the classes")
        group.eval()
        for batch in training.data.sample_batches(_MAX_IMAGES, world_size=1, shard=(0, 1)):
            with torch.no_grad():
                logits = group.predict(batch.to(device).images, names, global_batch_size=batch.num_valid)
            labels = batch.labels[: batch.num_valid]
            valid = {name: each[: len(labels)].cpu() for name, each in logits.items()}
            for learner in learners:
                sums += _entropies(list(_targets(recipe, learner, valid, labels, num_classes)))
            num_images += len(labels)
    sources, targets = (sums / (num_images * len(learners))).tolist()
    return TargetEntropy(learners, sources, targets, num_classes)


def smoothing_of(entropy: float, num_classes: int) -> float:
    """Returns the `label_smoothing` of cross_entropy that gives labels this entropy in nats.

    Smoothed labels have 1 - eps + eps / C at the label's class and eps / C at each other one.

    Example:
        >>> smoothing_of(0.0, 10), round(smoothing_of(1.0, 10), 3), smoothing_of(9.0, 10)
        (0.0, 0.241, 1.0)
    """
    from scipy.optimize import brentq  # takes longer to import than most of what a comparison does before its first run

    if entropy >= math.log(num_classes):
        return 1.0
    return round(float(brentq(lambda eps: smoothed_entropy(eps, num_classes) - max(entropy, 0.0), 0.0, 1.0)), _DIGITS)


def smoothed_entropy(eps: float, num_classes: int) -> float:
    """Returns the entropy of labels that are smoothed by `eps`, in nats."""
    other = eps / num_classes
    return -sum(count * p * math.log(p) for count, p in ((1, 1 - eps + other), (num_classes - 1, other)) if p > 0)


@dataclass(frozen=True)
class _Target:
    """What a learner's probabilities are drawn to: `probs_BC`, with a weight; `is_taught`: by others and not by the labels."""

    probs_BC: Tensor
    weight: float
    is_taught: bool


def _entropies(targets: list[_Target]) -> Tensor:
    """Returns the sums over the images of the entropy of what the sources say, and of the mixture with the labels, `[2]`."""
    taught = [target for target in targets if target.is_taught]
    return torch.stack([_mixture_entropy(taught), _mixture_entropy(targets)])


def _mixture_entropy(targets: list[_Target]) -> Tensor:
    probs_BC = sum((target.weight * target.probs_BC for target in targets), torch.zeros(())) / sum(target.weight for target in targets)
    return torch.special.entr(probs_BC).sum()


def _targets(recipe: Recipe, learner: str, logits: Mapping[str, Tensor], labels: Tensor, num_classes: int) -> Iterator[_Target]:
    """Yields what `learner` learns from; the weights of objectives are those before their schedules."""
    teaching = teaching_objectives(recipe, learner)
    for objective in recipe.objectives:
        if learner not in recipe.learners_of(objective) or objective.weight == 0 or objective.gate == "cutoff":
            continue
        arguments = objective.loss_arguments()
        if objective in teaching:
            assert isinstance(objective, DistillationObjective), "it has a source"
            yield from _taught(recipe, objective, learner, logits, labels)
            told = 1 - arguments["alpha"] if objective.loss == "skd" else 0.0
        else:
            told = 0.0 if recipe.sources_of(objective, learner) else 1.0
        if told:
            eps = arguments.get("label_smoothing", 0.0)
            probs_BC = (1 - eps) * F.one_hot(labels, num_classes).double() + eps / num_classes
            yield _Target(probs_BC, told * objective.weight, is_taught=False)


def _taught(
    recipe: Recipe, objective: DistillationObjective, learner: str, logits: Mapping[str, Tensor], labels: Tensor
) -> Iterator[_Target]:
    arguments, sources = objective.loss_arguments(), recipe.sources_of(objective, learner)
    weight = objective.weight * (arguments["alpha"] if objective.loss == "skd" else 1)
    weight /= len(sources) if objective.reduce == "mean" else 1
    for source in sources:
        if source == ENSEMBLE:
            weighting = "mean" if objective.ensemble is None else objective.ensemble.weighting
            members = torch.stack([logits[name] for name in recipe.members_of(objective, learner)])
            logits_BC = ENSEMBLES[weighting](members, labels, None).double()
        else:
            logits_BC = logits[peer_of(source)].double()
        if objective.loss == "skd" or arguments.get("standardize"):
            deviation = logits_BC.std(dim=-1, keepdim=True, correction=0)
            logits_BC = (logits_BC - logits_BC.mean(dim=-1, keepdim=True)) / (deviation + 1e-7) * arguments.get("multiplier", 1.0)
        probs_BC = (logits_BC / arguments.get("temperature", 1.0)).softmax(dim=-1)
        per_class = 1 / logits_BC.shape[-1] if arguments.get("reduction") == "mean" else 1.0
        yield _Target(probs_BC, weight * per_class, is_taught=True)
