"""fit: trains a recipe into a run folder; load_peer: returns a peer of a run folder as a plain model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from mutual.engine.codistillation import restrict_to_job, split_launch
from mutual.engine.costs import resolve_placement
from mutual.engine.monitoring import Scores
from mutual.engine.runtime import (
    Environment,
    LaunchSettings,
    environment_notes,
    init_environment,
    resolve_launch,
    restore_switches,
    torch_threads,
)
from mutual.engine.storage import BEST, RunFolder, check_data, exclusive_access, peer_file, resumed_recipe, select_checkpoint
from mutual.engine.training import Trainer, build_trainer, build_training
from mutual.models import read_model
from mutual.recipe import Recipe


@dataclass(frozen=True)
class RunResult:
    """Result of a training.

    Attributes:
        folder: the run folder.
        best_peer: name of the best peer.
        metrics: scores of the last evaluation, by peer and for the ensemble.
    """

    folder: Path
    best_peer: str
    metrics: Scores


@restore_switches()
def fit(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> RunResult:
    """Trains `recipe` into its run folder. Collective: all ranks must call it.

    Args:
        recipe: as `load_recipe` returns it.
        resume: go on from the run's last good checkpoint, or start where there is none.
        overwrite: remove what an earlier run of this name has left.

    Returns:
        The run folder, the best peer and the last scores.

    Raises:
        RecipeError: the recipe, the data or the launcher do not fit; nothing has been written.
        InputError: the run folder holds a run, and neither `resume` nor `overwrite` was given; another training has locked it; it is no
            run's; or what it holds is damaged. Nothing in it has been changed.
        StoppedError: SIGTERM, SIGUSR1 or SIGINT was received; a checkpoint has been written.
        NonFiniteLossError: a loss diverged; the last good checkpoint is kept.
        OSError: the disk is full or does not answer; the last good checkpoint is kept.
    """
    recipe = restrict_to_job(split_launch(recipe)).resolved()
    folder = RunFolder.of(recipe)
    environment = init_environment(recipe)
    comm = environment.comm
    with exclusive_access(folder, comm):
        launch = LaunchSettings.of(recipe, comm)
        saved_recipe = resumed_recipe(folder, recipe, comm, launch, resume=resume, overwrite=overwrite)
        recipe = resolve_launch(recipe, saved_recipe, launch)
        assert recipe.train.precision is not None, "it is resolved"
        assert recipe.train.threads is not None, "it is resolved"
        with torch_threads(recipe.train.threads):
            environment = replace(environment, precision=recipe.train.precision)
            recipe = resolve_placement(recipe, environment, saved_recipe)
            trainer = _build(recipe, environment, folder, resume=resume)
            try:
                trainer.run()
            finally:
                trainer.close()
        with comm.raise_together():
            local_best = _best_peer(folder) if comm.is_main else ""
        best_peer = comm.all_gather_json(local_best)[0]
    return RunResult(folder.path, best_peer, trainer.scores)


def _build(recipe: Recipe, environment: Environment, folder: RunFolder, *, resume: bool) -> Trainer:
    """Builds the trainer, resumes it, and prepares the run folder; nothing was written to it before."""
    comm = environment.comm
    training = build_training(recipe, environment)
    check_data(training.data, comm)
    trainer = build_trainer(recipe, environment, folder, training)
    files = select_checkpoint(trainer.checkpoints, comm) if resume else None
    if files is not None:
        trainer.resume(files)
    notes = environment_notes(comm)
    comm.barrier()
    with comm.raise_together():
        if comm.is_main:
            if not resume:
                folder.clear()
            folder.initialize(recipe, notes)
    trainer.open_tracker()
    if comm.is_main:
        for (name, path), size in training.group.exchange.transfer_plan.full_feature_maps.items():
            warnings.warn(f"{name}.{path} travels as feature maps, {size:,} bytes an image; a vector (`fc:input`) is smaller", stacklevel=2)
    return trainer


def _best_peer(folder: RunFolder) -> str:
    """Returns the best peer of a finished run after verifying its weights."""
    peer = folder.best_peer()
    folder.verified_weights(BEST, peer)
    return peer


def load_peer(run: str | Path, *, peer: str = "best", factory: str | None = None) -> nn.Module:
    """Loads a trained peer: a module in eval mode from images `[B, C, H, W]` to logits `[B, num_classes]`.

    Args:
        run: the run folder.
        peer: name of the peer, or `best`.
        factory: names a model of the user's own that may be built (`my_models:net`), which runs its code.

    Raises:
        InputError: there is no such run, no such peer in it, or its model is another factory's.
    """
    model, _ = read_model(peer_file(RunFolder(Path(run)), peer), factories=[] if factory is None else [factory])
    return model
