"""fit: a recipe to a run folder; load_peer: a peer of a run folder as a plain model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from mutual.engine.codistillation import as_job, divided
from mutual.engine.costs import settled
from mutual.engine.monitoring import Scores
from mutual.engine.runtime import Environment, Launch, environment_notes, resolved, start, switches_restored, threads
from mutual.engine.storage import BEST, RunFolder, check_data, chosen_checkpoint, held, peer_file, resumed_recipe
from mutual.engine.training import Trainer, build_parts
from mutual.group import agreed
from mutual.models import read_model
from mutual.recipe import Recipe


@dataclass(frozen=True)
class RunResult:
    """What a training left.

    Attributes:
        folder: the run folder.
        best_peer: the best peer's name.
        metrics: the last evaluation: by peer and for the ensemble its metrics.
    """

    folder: Path
    best_peer: str
    metrics: Scores


@switches_restored()
def fit(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> RunResult:
    """Trains `recipe` and returns what came of it.

    Args:
        recipe: as `load_recipe` returns it.
        resume: go on from the run's last good checkpoint, or start where there is none.
        overwrite: remove what an earlier run of this name left.

    Raises:
        RecipeError: the recipe, the data or the launcher do not fit; nothing has been written.
        InputError: the run folder holds a run, and neither `resume` nor `overwrite` was given; another training holds it; it is not
            ours; or what it holds is damaged. Nothing in it has been changed.
        StoppedError: SIGTERM, SIGUSR1 or SIGINT came; a checkpoint has been written.
        NonFiniteLossError: a loss diverged; the last good checkpoint stays.
        OSError: the disk is full or does not answer; the last good checkpoint stays.
    """
    recipe = as_job(divided(recipe))
    folder = RunFolder.of(recipe)
    environment = start(recipe)
    world = environment.world
    with held(folder, world):
        launch = Launch.of(recipe, world)
        begun = resumed_recipe(folder, recipe, world, launch, resume=resume, overwrite=overwrite)
        recipe = resolved(recipe, begun, launch)
        assert recipe.train.precision is not None, "it is resolved"
        assert recipe.train.threads is not None, "it is resolved"
        with threads(recipe.train.threads):
            environment = replace(environment, precision=recipe.train.precision)
            recipe = settled(recipe, environment, begun)
            trainer = _build(recipe, environment, folder, resume=resume)
            try:
                trainer.run()
            finally:
                trainer.close()
        best = agreed(world, lambda: _best_peer(folder) if world.is_main else "")[0]
    return RunResult(folder.path, best, trainer.scores)


def _build(recipe: Recipe, environment: Environment, folder: RunFolder, *, resume: bool) -> Trainer:
    """Returns the trainer at the point where the run stands; the first thing that writes into the run folder."""
    world = environment.world
    data, group, optimizations = build_parts(recipe, environment)
    check_data(data, world)
    trainer = Trainer(recipe, environment, data, group, optimizations, folder)
    files = chosen_checkpoint(folder, world) if resume else None
    if files is not None:
        trainer.resume(files)
    notes = environment_notes(world)

    def begin() -> None:
        if world.is_main:
            if not resume:
                folder.clear()
            folder.begin(recipe, notes)

    world.barrier()
    agreed(world, begin)
    trainer.open_tracker()
    if world.is_main:
        for (name, path), size in group.exchange.routes.raw_maps.items():
            warnings.warn(f"{name}.{path} travels as feature maps, {size:,} bytes an image; a vector (`fc:input`) is smaller", stacklevel=2)
    return trainer


def _best_peer(folder: RunFolder) -> str:
    """Returns the best peer of a finished run, whose weights are there and whole."""
    peer = folder.best_peer()
    folder.verified(BEST, peer)
    return peer


def load_peer(run: str | Path, *, peer: str = "best", factory: str | None = None) -> nn.Module:
    """Returns a trained peer of the run folder `run`, in eval mode: images `[B, C, H, W]` to plain logits `[B, num_classes]`.

    A peer that was trained with a model of the user's own is built where `factory` names it (`my_models:net`), which runs its code.

    Raises:
        InputError: there is no such run, no such peer in it, or its model is another factory's.
    """
    model, _ = read_model(peer_file(RunFolder(Path(run)), peer), factories=[] if factory is None else [factory])
    return model
