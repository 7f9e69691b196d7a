"""compare_recipes: trains the arms and controls of a comparison and says what they gave; compare_runs: what runs that exist gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mutual.engine.comparison.arms import MEAN, Arm, ArmRuns
from mutual.engine.comparison.comparison_folder import ComparisonFolder, Flops
from mutual.engine.comparison.control_names import INDEPENDENT, SAME
from mutual.engine.comparison.grouping import choose_seeds, find_runs, group_runs
from mutual.engine.comparison.planning import find_arm
from mutual.engine.comparison.reading import read_arms
from mutual.engine.comparison.result import COMPARISON, Comparison, Epoch
from mutual.engine.comparison.training import RunSettings, check_arms, train_arms
from mutual.engine.storage import RunFolder
from mutual.recipe import InputError, Recipe, did_you_mean, first_line, format_value, users_names


@dataclass(frozen=True)
class CompareOptions:
    """What is compared, and how.

    Attributes:
        name: what the comparison is called.
        command: the command line that makes it.
        baseline: the arm, or the control, that the others are compared with; None: `independent` where it is among the controls, else the
            first arm.
        metrics: by which; None: those of the recipes.
        epoch: see `choose_images`.
        controls: names of controls to add.
        teacher_flops: what training the teachers has taken, in FLOPs; None where it is not known.
    """

    name: str
    command: str = ""
    baseline: str | None = None
    metrics: Sequence[str] | None = None
    epoch: Epoch | None = None
    controls: Sequence[str] = ()
    teacher_flops: float | None = None


def compare_recipes(
    arms: Sequence[Arm], seeds: Sequence[int], folder: ComparisonFolder, options: CompareOptions, settings: RunSettings
) -> tuple[Comparison, list[ArmRuns]]:
    """Trains what is not trained yet, writes comparison.json, and returns what was found.

    Controls that are made of what other arms have learned are trained in a second round.

    Raises:
        InputError: what was asked for makes no sense, or a run in the folder is of another recipe; nothing has been trained then.
        RunError: a training has failed, or a signal was received.
    """
    check_arms(arms)
    if not options.controls:
        _baseline_of(arms, options)
    with folder.exclusive_access():
        every, notes = _with_controls(arms, options)
        _baseline_of(every, options)
        check_arms(every)
        train_arms(every, seeds, folder, settings)
        if options.controls:
            every, later_notes = _with_later_controls(every, options, _folders(every, seeds, folder))
            notes += [note for note in later_notes if note not in notes]
            check_arms(every)
            train_arms(every, seeds, folder, settings)
        arm_runs = read_arms(every, _folders(every, seeds, folder), epoch=options.epoch)
        arm_runs = [_with_flops(runs, _cached_flops(runs, folder, options)) for runs in arm_runs]
        comparison = _compare(arm_runs, seeds, options, notes)
        folder.write(comparison)
    return comparison, arm_runs


def compare_runs(
    paths: Sequence[Path], options: CompareOptions, *, seeds: Sequence[int] | None = None, member: str | None = None
) -> tuple[Comparison, list[ArmRuns]]:
    """Returns what runs that exist gave, grouped by their recipes; nothing is trained.

    The folder of a finished comparison has its arms, controls among them, as they were.

    Args:
        paths: run folders, or folders that hold them.
        options: controls are not among them.
        seeds: those to compare; None: all that the arms have in common.
        member: whose scores count; None: what the comparison says, or the mean over the trained peers.

    Raises:
        InputError: a folder holds no run, a run is not finished, or they cannot be compared.
    """
    saved = ComparisonFolder(paths[0]).read() if len(paths) == 1 else None
    notes: list[str] = []
    if saved is None:
        folders, notes = find_runs(paths)
        arms, by_seed = group_runs(folders, member=member or MEAN)
        flops: dict[str, Flops] = {}
    else:
        arms, by_seed, flops = _arms_of(saved, ComparisonFolder(paths[0]), member)
        options = replace(options, baseline=options.baseline or saved.baseline)
    chosen = choose_seeds(by_seed, _baseline_of(arms, options), seeds)
    by_seed = {name: {seed: runs[seed] for seed in chosen if seed in runs} for name, runs in by_seed.items()}
    arm_runs = read_arms(arms, by_seed, epoch=options.epoch)
    arm_runs = [_with_flops(runs, flops.get(runs.arm.name) or _flops_of_run(runs, options)) for runs in arm_runs]
    return _compare(arm_runs, chosen, options, notes), arm_runs


def _compare(arm_runs: Sequence[ArmRuns], seeds: Sequence[int], options: CompareOptions, notes: Sequence[str]) -> Comparison:
    from mutual.engine.comparison import compare_arms  # SciPy takes a second

    return compare_arms(
        arm_runs,
        name=options.name,
        command=options.command,
        baseline=_baseline_of([runs.arm for runs in arm_runs], options),
        seeds=seeds,
        metrics=options.metrics,
        notes=notes,
    )


def _baseline_of(arms: Sequence[Arm], options: CompareOptions) -> str:
    """Returns the name of the arm that the others are compared with."""
    if options.baseline is not None:
        found = find_arm(arms, options.baseline) or next((arm for arm in arms if arm.control == options.baseline), None)
        if found is None:
            raise InputError(
                f"--baseline: no arm is called {format_value(options.baseline)}{did_you_mean(options.baseline, [arm.name for arm in arms])}"
            )
        return found.name
    return next((arm.name for arm in arms if arm.control == INDEPENDENT), arms[0].name)


def _with_controls(arms: Sequence[Arm], options: CompareOptions) -> tuple[list[Arm], list[str]]:
    """Returns the arms with the controls that recipes alone say, and what is to be said of them.

    `a/a` comes last, as it is of the baseline, which may be a control.
    """
    if not options.controls:
        return list(arms), []
    from mutual.engine.comparison import control_arms  # it imports torch

    names = [name for name in options.controls if name != SAME]
    first = (find_arm(arms, options.baseline or "") or arms[0]).name
    plan = control_arms(arms, first, names, teacher_flops=options.teacher_flops)
    every, notes = [*arms, *plan.arms], list(plan.notes)
    if SAME in options.controls:
        plan = control_arms(every, _baseline_of(every, options), [SAME])
        every, notes = [*every, *plan.arms], [*notes, *plan.notes]
    return every, notes


def _with_later_controls(
    arms: Sequence[Arm], options: CompareOptions, finished: Mapping[str, Mapping[int, Path]]
) -> tuple[list[Arm], list[str]]:
    """Returns the arms with the controls that are made of what others have learned, and what is to be said of them."""
    from mutual.engine.comparison import control_arms

    names = [name for name in options.controls if name != SAME]
    plan = control_arms(arms, _baseline_of(arms, options), names, teacher_flops=options.teacher_flops, stage="after", finished=finished)
    return [*arms, *plan.arms], list(plan.notes)


def _folders(arms: Sequence[Arm], seeds: Sequence[int], folder: ComparisonFolder) -> dict[str, dict[int, Path]]:
    """Returns by arm and seed the run folder whose scores count, of arms that are trained."""
    names = folder.file_names()
    return {arm.name: {seed: folder.run(names[arm.runs_of or arm.name], seed + arm.seed_offset).path for seed in seeds} for arm in arms}


def _arms_of(
    saved: Comparison, folder: ComparisonFolder, member: str | None
) -> tuple[list[Arm], dict[str, dict[int, Path]], dict[str, Flops]]:
    """Returns the arms that comparison.json names, by arm and seed the run folder, and what their training takes."""
    by_seed = {arm.name: folder.find_runs(arm) for arm in saved.arms}
    arms = []
    for arm in saved.arms:
        if not arm.runs:
            raise InputError(f"{folder.path / COMPARISON} names no run of the arm {arm.name!r}; the command that made it writes it again")
        recipe = RunFolder(next(iter(by_seed[arm.name].values()))).recipe()
        chosen = arm.member if member is None or arm.control is not None else member
        arms.append(Arm(arm.name, recipe, chosen, arm.control, arm.control_of, note=arm.note))
    return arms, by_seed, {arm.name: Flops(flops=arm.flops, note=arm.flops_note, images=arm.images) for arm in saved.arms}


def _with_flops(runs: ArmRuns, flops: Flops) -> ArmRuns:
    return replace(runs, flops=flops.flops, flops_note=flops.note, images=flops.images)


def _cached_flops(runs: ArmRuns, folder: ComparisonFolder, options: CompareOptions) -> Flops:
    """Returns what training a run of the arm takes, counted once in the life of a comparison."""
    key = {"epochs": _stopped_at(runs), "teacher_flops": options.teacher_flops}
    known = folder.read_flops(runs.arm.recipe, **key)
    if known is None:
        known = _count_flops(runs.arm.recipe, runs, options)
        folder.write_flops(runs.arm.recipe, known, **key)
    return known


def _flops_of_run(runs: ArmRuns, options: CompareOptions) -> Flops:
    """Returns what a run took; a run folder's recipe chooses no code that would have to run for that."""
    recipe = runs.arm.recipe
    if any(users_names(recipe.model_dump())):
        return Flops(flops=None, note="not counted, as that would run code that the run folder names", images=0)
    return _count_flops(recipe, runs, options)


def _stopped_at(runs: ArmRuns) -> int | None:
    """Returns how many epochs the runs took on average where that is not what the recipe says."""
    return None if runs.mean_epochs == runs.arm.recipe.train.epochs else runs.mean_epochs


def _count_flops(recipe: Recipe, runs: ArmRuns, options: CompareOptions) -> Flops:
    from mutual.engine.costs import count_training_flops  # it imports torch

    try:
        counted = count_training_flops(recipe, teacher_flops=options.teacher_flops, epochs=_stopped_at(runs))
    except (ValueError, OSError) as error:  # what was trained elsewhere may not be here
        return Flops(flops=None, note=f"not counted: {first_line(error)}", images=0)
    return Flops(flops=counted.flops, note=counted.note, images=counted.images)
