"""Recipes of controls, made from those of methods: labels alone, one peer for longer, teachers that nobody has trained, smoothed labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mutual.engine.comparison.arms import MEAN, Arm
from mutual.group import import_own_losses
from mutual.recipe import OBJECTIVES, ExchangeSpec, Objective, Recipe, Schedule, parse_recipe

_SET_BY_COMPARISON = {"name", "output", "seed"}


def learns_from_others(recipe: Recipe) -> bool:
    """Returns whether some objective has a source: a peer, a moving average, or the learner itself at another output."""
    return any(recipe.sources_of(objective, learner) for objective in recipe.objectives for learner in recipe.learners_of(objective))


def recipe_key(recipe: Recipe) -> str:
    """Returns a text that two recipes have in common which train the same but for what a comparison sets."""
    resolved = recipe.model_copy(update={"seed": 0}).resolved()  # which says where the seed decides
    return json.dumps(resolved.model_dump(exclude=_SET_BY_COMPARISON), default=repr)


def labels_only(recipe: Recipe) -> Recipe:
    """Returns the same trained peers, each trained on labels alone.

    Objectives without a source stay, at a weight that holds for the whole training. The weights of a learner are divided by the largest of
    them: 0.5 of cross-entropy beside 0.5 of a distillation becomes 1, as whoever trains the peer alone would have it. Who has no such
    objective learns by cross-entropy (`bce` for several labels). What has a source goes, and with it all that serves it: frozen peers,
    pauses, the exchange between jobs, images without labels.

    Raises:
        RecipeError: what is left fits no training.
    """
    recipe = import_own_losses(recipe)
    objectives = [each for each in recipe.objectives if each.gate != "cutoff" and each.weight > 0 and not _has_source(recipe, each)]
    largest = {
        name: max((each.weight for each in objectives if name in recipe.learners_of(each)), default=0.0) for name in recipe.trainable
    }
    kept = [scaled for each in objectives for scaled in _rescaled(recipe, each, largest)]
    untaught = [name for name, weight in largest.items() if weight == 0]
    if untaught:
        loss = "bce" if recipe.data.multi_label else "cross_entropy"
        learners = None if len(untaught) == len(recipe.trainable) else untaught
        kept.append(OBJECTIVES[loss].model_validate({"loss": loss, "learners": learners}))
    return _checked(
        recipe,
        peers={name: recipe.peers[name] for name in recipe.trainable},
        objectives=kept,
        exchange=ExchangeSpec(),
        train=recipe.train.model_copy(update={"pause": None, "update": "simultaneous"}),
        data=recipe.data.model_copy(update={"unlabelled": None}),
    )


def one_peer(recipe: Recipe, name: str) -> Recipe:
    """Returns a recipe of labels alone with this one of its peers."""
    peer = recipe.peers[name].model_copy(update={"rank": None, "ranks": None, "cost": None})
    objectives = [each.model_copy(update={"learners": None}) for each in recipe.objectives if name in recipe.learners_of(each)]
    return _checked(recipe, peers={name: peer}, objectives=objectives, placement="replicated")


def stretched(recipe: Recipe, epochs: int) -> Recipe:
    """Returns the recipe with so many epochs, and everything that speaks of epochs in proportion.

    Rates rise and fall as they do in the recipe, over a longer time: warm-up, milestones, steps and periods are so many times as long.
    Evaluations are as many as before, so that the best epoch is chosen among as many and patience is as long. A schedule of the user's own
    is told the epochs; its arguments stay.
    """
    factor = epochs / recipe.train.epochs
    train = recipe.train.model_copy(update={"epochs": epochs, "eval_every": max(1, round(recipe.train.eval_every * factor))})
    peers = {
        name: peer if peer.schedule is None else peer.model_copy(update={"schedule": _stretched_schedule(peer.schedule, factor)})
        for name, peer in recipe.peers.items()
    }
    return _checked(recipe, train=train, peers=peers, schedule=_stretched_schedule(recipe.schedule, factor))


def with_random_teachers(recipe: Recipe, teachers: Sequence[str]) -> Recipe:
    """Returns the recipe in which these frozen peers have the initial weights of the seed, and no store of what they say."""
    peers = dict(recipe.peers)
    for name in teachers:
        args = {key: value for key, value in peers[name].args.items() if not key.startswith(("pretrained", "weights"))}
        peers[name] = peers[name].model_copy(update={"weights": None, "args": args, "expect": None, "store": None})
    return _checked(recipe, peers=peers)


def with_smoothing(recipe: Recipe, smoothing: Mapping[str, float]) -> Recipe:
    """Returns a recipe of labels alone in which the cross-entropy of these learners has this label smoothing.

    Raises:
        ValueError: a learner has no cross-entropy.
    """
    objectives: list[Objective] = []
    smoothed: set[str] = set()
    for each in recipe.objectives:
        by_value: dict[float | None, list[str]] = {}
        for learner in recipe.learners_of(each):
            by_value.setdefault(smoothing.get(learner) if each.loss == "cross_entropy" else None, []).append(learner)
        for value, learners in by_value.items():
            update: dict[str, Any] = {} if value is None else {"label_smoothing": value}
            smoothed.update(learners if value is not None else ())
            objectives.append(each.model_copy(update={**update, "learners": each.learners if len(by_value) == 1 else learners}))
    left = [name for name in smoothing if name not in smoothed]
    if left:
        raise ValueError(f"{left[0]} learns from labels by another loss than cross_entropy, which has no label smoothing")
    return _checked(recipe, objectives=objectives)


def scored_peer(arm: Arm) -> str:
    """Returns the peer whose score counts, the first trained one where it is that of several."""
    return arm.member if arm.member in arm.recipe.trainable else arm.recipe.trainable[0]


def member_of(arm: Arm, recipe: Recipe) -> str:
    """Returns whose scores count in a control of this recipe: the same as in the arm, where they are there."""
    return MEAN if arm.member in arm.recipe.peers and arm.member not in recipe.peers else arm.member


def _has_source(recipe: Recipe, objective: Objective) -> bool:
    return any(recipe.sources_of(objective, learner) for learner in recipe.learners_of(objective))


def _rescaled(recipe: Recipe, objective: Objective, largest: Mapping[str, float]) -> list[Objective]:
    """Returns the objective with weights that are fractions of its learners' largest; several where these differ."""
    by_weight: dict[float, list[str]] = {}
    for learner in recipe.learners_of(objective):
        by_weight.setdefault(objective.weight / largest[learner], []).append(learner)
    gate = "through" if objective.gate == "linear" else objective.gate
    constant = objective.model_copy(update={"schedule": None, "gate": gate})
    if len(by_weight) == 1:
        return [constant.model_copy(update={"weight": next(iter(by_weight))})]
    return [constant.model_copy(update={"weight": weight, "learners": learners}) for weight, learners in by_weight.items()]


def _stretched_schedule(schedule: Schedule, factor: float) -> Schedule:
    return schedule.model_copy(
        update={
            "warmup_epochs": schedule.warmup_epochs * factor,
            "warmup_updates": round(schedule.warmup_updates * factor),
            "period_epochs": None if schedule.period_epochs is None else schedule.period_epochs * factor,
            "step_epochs": schedule.step_epochs * (factor if schedule.name == "step" else 1),
            "milestones": [each * factor for each in schedule.milestones],
            "rise": None if schedule.rise is None else schedule.rise * factor,
            "fall": None if schedule.fall is None else schedule.fall * factor,
        }
    )


def _checked(recipe: Recipe, **update: Any) -> Recipe:
    """Returns the recipe with other sections, checked as a file is."""
    document = recipe.model_copy(update=update).model_dump()
    for objective in document["objectives"]:
        if isinstance(objective["at"], dict):
            objective["at"] = {name: path for name, path in objective["at"].items() if name in document["peers"]}
    return parse_recipe(document, source=f"{recipe.name}, a control")
