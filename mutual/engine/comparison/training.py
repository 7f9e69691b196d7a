"""train_arms: trains the runs of a comparison that are not finished yet."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mutual.commandline import launched_rank
from mutual.data import available_cores
from mutual.engine.comparison.arms import SEEDS_OF_DATA, Arm
from mutual.engine.comparison.comparison_folder import ComparisonFolder
from mutual.engine.inputs import check_inputs
from mutual.engine.storage import CHANGES_NO_NUMBERS, RunFolder, recipe_differences
from mutual.recipe import InputError, Recipe, first_line, format_value

_FREE_TO_DIFFER = re.compile(CHANGES_NO_NUMBERS)
"""Key paths in which a run that is there may differ from what a comparison would train."""


@dataclass(frozen=True)
class RunSettings:
    """How the runs of a comparison are trained.

    Attributes:
        jobs: how many at a time; None: one, or one for each GPU.
        launcher: the command that starts several processes for each (`torchrun --nproc_per_node 2`); None: one process each.
        overwrite: whether runs of other recipes that are in the way are replaced.
    """

    jobs: int | None = None
    launcher: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class _PlannedRun:
    recipe: Recipe
    folder: RunFolder
    is_finished: bool = False
    replaces: bool = False


def check_arms(arms: Sequence[Arm]) -> None:
    """Refuses arms whose data or weights are missing, or whose peers would be trained by several jobs, before any is trained.

    Raises:
        RecipeError: so it is.
        InputError: this is one of several processes, which would all train the same runs.
    """
    if launched_rank()[1] != 1:
        raise InputError("a comparison is one process, which starts those that train; give the launcher as --launcher 'torchrun ...'")
    for arm in arms:
        if arm.recipe.exchange.kind == "stale":
            raise arm.recipe.error(
                "exchange.kind", "a comparison knows runs of one job each, and here each peer has a job and a run folder of its own"
            )
        check_inputs(arm.recipe)


def train_arms(arms: Sequence[Arm], seeds: Sequence[int], folder: ComparisonFolder, settings: RunSettings) -> None:
    """Trains each arm under each seed, seed after seed, so that what is finished first are whole pairs; finished runs are left alone.

    Raises:
        InputError: a run in the folder is of another recipe, or a training has found the user's input wrong; in the former case nothing has
            been trained.
        RunError: a training has failed, or a signal was received; the others have written a checkpoint.
    """
    _check_launcher(settings.launcher)
    trained = [arm for arm in arms if arm.runs_of is None]
    names = folder.write_arms(trained)
    planned = [_plan_run(arm, seed, folder, names[arm.name], settings) for seed in seeds for arm in trained]
    unfinished = [run for run in planned if not run.is_finished]
    if not unfinished:
        return
    from mutual.engine.comparison.running import Progress, TrainingJob, print_line, run_jobs, wait_until_free  # they import torch

    slots = make_slots(settings, [run.recipe for run in unfinished])
    done = [run.recipe.train.epochs for run in planned if run.is_finished]
    finished = f", {len(done)} finished" if done else ""
    counts = [f"{count} {word}{'s' * (count > 1)}" for count, word in ((len(trained), "arm"), (len(seeds), "seed"), (len(planned), "run"))]
    print_line(f"{folder.path}: {counts[0]} x {counts[1]} = {counts[2]}{finished}; {len(slots)} at a time")
    wait_until_free([run.folder for run in unfinished])
    jobs = [
        TrainingJob(run.folder, _command(run, folder, settings), folder.log(run.folder), run.recipe.train.epochs, replaces=run.replaces)
        for run in unfinished
    ]
    run_jobs(jobs, slots, Progress(jobs, num_done=len(done), done_epochs=sum(done)))


def make_slots(settings: RunSettings, recipes: Sequence[Recipe]) -> list[dict[str, str]]:
    """Returns for each of the runs that are trained at a time the variables that give it its share of the machine.

    GPUs are shared evenly: with as many as jobs each has one of its own. On a CPU each has its share of the cores as threads, unless the
    user or a recipe says how many, or a launcher divides them.
    """
    gpus = _visible_gpus()
    default = max(1, len(gpus)) if settings.launcher is None else 1
    num_jobs = min(settings.jobs or default, len(recipes))
    slots: list[dict[str, str]] = []
    for index in range(num_jobs):
        share = len(gpus) // num_jobs
        own = gpus[index * share : (index + 1) * share] if share else gpus[index % len(gpus) :][:1] if gpus else []
        slots.append({"CUDA_VISIBLE_DEVICES": ",".join(own)} if own and num_jobs > 1 else {})
        chosen = "OMP_NUM_THREADS" in os.environ or any(recipe.train.threads is not None for recipe in recipes)
        if not gpus and not chosen and settings.launcher is None and num_jobs > 1:
            slots[-1]["OMP_NUM_THREADS"] = str(max(1, available_cores() // num_jobs))
    return slots


def _check_launcher(launcher: str | None) -> None:
    if launcher is None:
        return
    try:
        words = shlex.split(launcher)
    except ValueError as error:  # of a quotation mark without a second one
        raise InputError(f"--launcher: {format_value(launcher)} cannot be read: {first_line(error)}") from error
    if not words or shutil.which(words[0]) is None:
        raise InputError(f"--launcher: there is no command {format_value(launcher)}; give one such as 'torchrun --nproc_per_node 2'")


def _visible_gpus() -> list[str]:
    import torch  # it takes seconds

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [str(index) for index in range(count)] if given is None else [each.strip() for each in given.split(",")][:count]


def _plan_run(arm: Arm, seed: int, folder: ComparisonFolder, name: str, settings: RunSettings) -> _PlannedRun:
    """Returns what is to be done for a run.

    Raises:
        InputError: its folder holds a run of another recipe.
    """
    run = folder.run(name, seed + arm.seed_offset)
    data = arm.recipe.data.resolved(seed=seed)  # an arm under other seeds has the images of its pair
    images = arm.recipe.data.model_copy(update={field: getattr(data, field) for field in SEEDS_OF_DATA})
    fields = {"seed": seed + arm.seed_offset, "name": run.path.name, "output": str(folder.path), "data": images}
    recipe = arm.recipe.model_copy(update=fields)
    run.check_owner()
    if not run.holds_run() and run.read_summary() is None:
        return _PlannedRun(recipe, run)
    differences = recipe_differences(run.recipe(), recipe, _FREE_TO_DIFFER)
    if not differences:
        return _PlannedRun(recipe, run, is_finished=run.read_summary() is not None)
    if settings.overwrite:
        return _PlannedRun(recipe, run, replaces=True)
    path, (old, new) = next(iter(differences.items()))
    more = f" (and {len(differences) - 1} more field{'s' * (len(differences) > 2)})" if len(differences) > 1 else ""
    raise InputError(
        f"{run.path} was trained with {path} {format_value(old)}, and the arm {arm.name!r} has {format_value(new)}{more}; give the old "
        "value, another --name, or --overwrite to replace such runs"
    )


def _command(run: _PlannedRun, folder: ComparisonFolder, settings: RunSettings) -> tuple[str, ...]:
    """Returns the command line that trains a run or goes on with it."""
    launcher = [sys.executable] if settings.launcher is None else shlex.split(settings.launcher)
    recipe = folder.recipe_file(run.folder.path.name.rpartition("-seed")[0])
    fields = [f"seed={run.recipe.seed}", f"name={run.recipe.name}", f"output={_as_yaml(run.recipe.output)}"]
    seeds = {field: getattr(run.recipe.data, field) for field in SEEDS_OF_DATA}
    fields += [f"data.{field}={seed}" for field, seed in seeds.items() if seed not in (None, run.recipe.seed)]
    return (*launcher, "-m", "mutual.train", str(recipe), *fields, "--overwrite" if run.replaces else "--resume")


def _as_yaml(text: str) -> str:
    """Returns `text` as YAML that says this text, whatever it looks like."""
    return text if re.fullmatch(r"[\w./-]*[/][\w./-]*", text) else "'" + text.replace("'", "''") + "'"
