"""control_arms: the controls of a comparison, plain ways to spend the same compute, as further arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from mutual.engine.comparison.arms import SEED_OFFSET, Arm
from mutual.engine.comparison.control_names import CONTROLS, INDEPENDENT, LONGER, RANDOM, SAME, SMOOTHING, TOGETHER
from mutual.engine.comparison.control_recipes import (
    labels_only,
    learns_from_others,
    member_of,
    one_peer,
    recipe_key,
    scored_peer,
    stretched,
    with_random_teachers,
    with_smoothing,
)
from mutual.engine.comparison.target_entropy import TargetEntropy, measure_target_entropy, smoothing_of, teaching_objectives
from mutual.engine.costs import count_training_flops, measured_training, source_peers
from mutual.engine.storage import BEST, RunFolder
from mutual.group import import_own_losses
from mutual.recipe import ENSEMBLE, InputError, Recipe, did_you_mean, format_value, program_file

_MAX_EPOCHS = 1_000_000
Stage = Literal["before", "after"]


@dataclass(frozen=True)
class ControlPlan:
    """What controls add to a comparison.

    Attributes:
        arms: those that are added, in the order of the controls' names, and of the arms that they are of.
        notes: a line for each control that makes no sense for some arms, or cannot be made.
    """

    arms: list[Arm]
    notes: list[str]


def control_arms(
    arms: Sequence[Arm],
    baseline: str,
    names: Sequence[str],
    *,
    teacher_flops: float | None = None,
    stage: Stage = "before",
    finished: Mapping[str, Mapping[int, Path]] | None = None,
) -> ControlPlan:
    """Returns the arms that controls add to `arms`, for each that learns from peers or a teacher; `a/a` for the baseline.

    A control that comes out as the same recipe for several arms is one arm, and one that is the recipe of an arm reads that arm's runs.

    Args:
        arms: of the comparison; those that are controls themselves have none.
        baseline: name of the arm that the others are compared with.
        names: of `CONTROLS`. `ensemble` reads the runs of `independent`, which is added with it.
        teacher_flops: what the training of teachers took whose weights are of no run folder.
        stage: `before`: what recipes alone say; `after`: what needs finished runs (`smoothing` by peers that are trained).
        finished: by arm and seed the folders of its finished runs.

    Raises:
        InputError: there is no control or no arm of this name.
        RecipeError: a recipe that the FLOPs or the entropy of are asked for cannot be built.
    """
    for name in names:
        if name not in CONTROLS:
            raise InputError(f"{format_value(name)} is no control{did_you_mean(name, CONTROLS)}")
    if baseline not in [arm.name for arm in arms]:
        raise InputError(f"{format_value(baseline)} is no arm{did_you_mean(baseline, [arm.name for arm in arms])}")
    wanted = {*names, *((INDEPENDENT,) if TOGETHER in names else ())}
    planner = _Planner(arms, baseline, teacher_flops, stage, finished or {})
    for name in CONTROLS:
        if name in wanted and (stage == "before" or name == SMOOTHING):
            planner.add(name)
    return ControlPlan(planner.added, planner.notes)


class _NotMadeError(ValueError):
    """A control makes no sense for an arm; `str(error)` says why."""


class _Planner:
    """Makes the controls of a comparison, one after another.

    Attributes:
        added: the arms of the controls.
        notes: why some are not among them.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        baseline: str,
        teacher_flops: float | None,
        stage: Stage,
        finished: Mapping[str, Mapping[int, Path]],
    ) -> None:
        self.added: list[Arm] = []
        self.notes: list[str] = []
        self._arms = arms
        self._baseline = next(arm for arm in arms if arm.name == baseline)
        self._teacher_flops = teacher_flops
        self._stage = stage
        self._finished = finished
        self._counted: dict[str, float] = {}
        plain = [replace(arm, recipe=import_own_losses(arm.recipe)) for arm in arms if arm.control is None]
        self._methods = [arm for arm in plain if learns_from_others(arm.recipe)]
        self._make: dict[str, Callable[[Arm], Arm | None]] = {
            INDEPENDENT: self._independent,
            LONGER: self._longer,
            TOGETHER: self._ensemble,
            RANDOM: self._random_teacher,
            SMOOTHING: self._smoothing,
        }

    def add(self, control: str) -> None:
        """Adds a control of the baseline, or of each method; a note where it is of none."""
        if control == SAME:
            note = f"the baseline under seeds + {SEED_OFFSET:,}, on the same images: what differs is chance"
            self._add(replace(self._baseline, control=SAME, control_of=(), note=note, seed_offset=SEED_OFFSET), self._baseline)
            return
        if not self._methods and self._stage == "before":
            self.notes.append(f"{control}: no arm learns from peers or a teacher")
        left_out: dict[str, list[str]] = {}
        for method in self._methods:
            if method.recipe.extended_from is not None and self._stage == "after":
                continue  # it was said before
            try:
                if method.recipe.extended_from is not None:
                    raise _NotMadeError("it goes on from another run")
                arm = self._make[control](method)
            except _NotMadeError as reason:
                left_out.setdefault(str(reason), []).append(method.name)
            else:
                if arm is not None:
                    self._add(replace(arm, control=control), method)
        self.notes += [f"no {control} of {', '.join(names)}: {reason}" for reason, names in left_out.items()]

    def _add(self, arm: Arm, method: Arm) -> None:
        """Adds an arm under a name of its own, or the method to those that an equal one is a control of."""
        key = (recipe_key(arm.recipe), arm.seed_offset)
        for index, other in enumerate(self.added):
            if (other.control, other.member, recipe_key(other.recipe), other.seed_offset) == (arm.control, arm.member, *key):
                self.added[index] = replace(other, control_of=(*other.control_of, method.name))
                return
        taken = {each.name for each in (*self._arms, *self.added)}
        name = base = f"{method.name}-{(arm.control or '').replace('/', '-')}"
        number = 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        same = next((each for each in (*self._arms, *self.added) if (recipe_key(each.recipe), each.seed_offset) == key), None)
        runs_of = None if same is None else same.name  # the first of that recipe trains it
        self.added.append(replace(arm, name=name, control_of=(method.name,), runs_of=runs_of))

    def _independent(self, method: Arm) -> Arm:
        recipe = labels_only(method.recipe)
        note = "the same peers on labels alone" if len(recipe.peers) > 1 else f"{recipe.trainable[0]} on labels alone"
        return replace(method, recipe=recipe, member=member_of(method, recipe), note=note + _without_unlabelled(method.recipe))

    def _ensemble(self, method: Arm) -> Arm:
        recipe = labels_only(method.recipe)
        number = len(recipe.trainable)
        if number < 2:
            raise _NotMadeError("one peer is trained, which makes no ensemble")
        note = f"the {number} independent peers together: inference costs {number} times"
        return replace(method, recipe=recipe, member=ENSEMBLE, note=note)

    def _longer(self, method: Arm) -> Arm:
        name, before = scored_peer(method), method.recipe.train.epochs
        single = one_peer(labels_only(method.recipe), name)
        total = count_training_flops(method.recipe, teacher_flops=self._teacher_flops)
        ratio = total.flops / (before * self._flops_per_epoch(single))
        epochs = max(round(before * ratio), 1)
        if epochs > _MAX_EPOCHS:
            raise _NotMadeError(f"{epochs:,} epochs of {name} have the same compute, more than a recipe takes")
        recipe = stretched(single, epochs)
        note = f"one peer ({name}), {epochs} epochs in place of {before}: {ratio:.3g} times its compute"
        note += _without_unlabelled(method.recipe) + _other_models(method, name) + (f"; {total.note}" if total.note else "")
        return replace(method, recipe=recipe, member=member_of(method, recipe), note=note)

    def _flops_per_epoch(self, recipe: Recipe) -> float:
        key = recipe_key(recipe)
        if key not in self._counted:
            self._counted[key] = count_training_flops(recipe).per_epoch
        return self._counted[key]

    def _random_teacher(self, method: Arm) -> Arm:
        recipe = method.recipe
        teachers = [name for name in source_peers(recipe) if recipe.peers[name].frozen and name not in recipe.exchange.reads]
        if not teachers:
            raise _NotMadeError("no teacher is frozen")
        programs = [name for name in teachers if program_file(recipe.peers[name].model) is not None]
        if programs:
            raise _NotMadeError(f"{programs[0]} is an exported program, which has no initial weights")
        with measured_training(recipe) as (training, _):  # their weights say what they read
            recipe = recipe.with_inputs({name: asdict(training.group.inputs[name]) for name in teachers})
        note = f"{' and '.join(teachers)} with the initial weights of the seed, which nothing has trained"
        return replace(method, recipe=with_random_teachers(recipe, teachers), note=note)

    def _smoothing(self, method: Arm) -> Arm | None:
        """Returns the control, in the stage that knows the method's targets; None in the other one."""
        recipe = method.recipe
        learners = [name for name in recipe.trainable if teaching_objectives(recipe, name)]
        needs_runs = bool(learners) and not recipe.data.multi_label and not set(recipe.trainable).isdisjoint(source_peers(recipe))
        if needs_runs != (self._stage == "after"):
            return None
        if recipe.data.multi_label:
            raise _NotMadeError("images have several labels, which have no label smoothing")
        if not learners:
            raise _NotMadeError("no loss reads the logits of peers or a teacher and nothing else")
        try:
            entropy = self._entropy(method) if needs_runs else measure_target_entropy(recipe, {})
            smoothing = smoothing_of(entropy.targets, entropy.num_classes)
            smoothed = with_smoothing(labels_only(recipe), dict.fromkeys(learners, smoothing))
        except InputError:
            raise
        except ValueError as error:
            raise _NotMadeError(str(error)) from error
        sources = "peers" if needs_runs else "teacher"
        note = (
            f"label_smoothing {smoothing:g}: labels have the entropy of the method's targets, {entropy.targets:.3g} nats "
            f"(labels and {sources} mixed; {sources} alone {entropy.sources:.3g})"
        )
        return replace(method, recipe=smoothed, member=member_of(method, smoothed), note=note)

    def _entropy(self, method: Arm) -> TargetEntropy:
        """Returns the mean over the method's finished runs, by their best weights."""
        found = []
        for seed, path in sorted(self._finished.get(method.name, {}).items()):
            folder = RunFolder(path)
            weights = {name: folder.verified_weights(BEST, name) for name in method.recipe.trainable}
            found.append(measure_target_entropy(_seeded(method.recipe, seed), weights))
        if not found:
            raise _NotMadeError("none of its runs is finished")
        means = (sum(values) / len(found) for values in zip(*((each.sources, each.targets) for each in found), strict=True))
        sources, targets = means
        return replace(found[0], sources=sources, targets=targets)


def _seeded(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"seed": seed})


def _other_models(method: Arm, name: str) -> str:
    peers = method.recipe.peers
    differ = any((peers[each].model, peers[each].args) != (peers[name].model, peers[name].args) for each in method.recipe.trainable)
    return f"; the method's score is of peers of other models, too (name one: {name})" if differ and method.member != name else ""


def _without_unlabelled(recipe: Recipe) -> str:
    return "" if recipe.data.unlabelled is None else ", without the images that have no label"
