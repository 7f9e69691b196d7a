"""fit: trains a recipe into a run folder; load_peer: returns a peer of a run folder as a plain model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from mutual.engine.codistillation import restrict_to_job, split_launch
from mutual.engine.costs import resolve_placement, resolve_tuning
from mutual.engine.monitoring import check_trackers
from mutual.engine.results import RunResult
from mutual.engine.runtime import (
    Environment,
    LaunchSettings,
    environment_notes,
    init_environment,
    resolve_launch,
    restore_switches,
    torch_threads,
)
from mutual.engine.storage import (
    BEST,
    Predecessor,
    RunFolder,
    check_same_classes,
    check_same_data,
    exclusive_access,
    find_predecessor,
    peer_file,
    select_checkpoint,
)
from mutual.engine.training import (
    Callback,
    Trainer,
    build_trainer,
    build_training,
    check_callbacks,
    resolve_class_weights,
    with_fused_steps,
)
from mutual.group import Communicator, room_for_graphs
from mutual.models import read_model, weights_path
from mutual.recipe import MAX_SAVED_CLASSES, InputError, Recipe, load_recipe


@restore_switches()
def fit(
    recipe: Recipe | str | os.PathLike[str] | Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Callback | Sequence[Callback] = (),
) -> RunResult:
    """Trains `recipe` into its run folder. Collective: all ranks must call it.

    Args:
        recipe: as `load_recipe` returns it, or what it takes.
        resume: go on from the run's last good checkpoint, or start where there is none.
        overwrite: remove what an earlier run of this name has left.
        callbacks: one or several, called while it runs, in this order; see `Callback`.

    Returns:
        The run folder, the best peer, the scores and the history.

    Raises:
        RecipeError: the recipe, the data or the launcher do not fit, or a peer scores less than the recipe expects; nothing has been
            written.
        InputError: `resume` and `overwrite` are both given; a callback is none; the run folder holds a run, and neither was given;
            another training has locked it; it is no run's; or what it holds is damaged. Nothing in it has been changed.
        StoppedError: SIGTERM, SIGUSR1 or SIGINT was received; a checkpoint has been written.
        NonFiniteLossError: a loss diverged; the last good checkpoint is kept.
        OSError: the disk is full or does not answer; the last good checkpoint is kept.

    Example:
        >>> import mutual
        >>> recipe = mutual.load_recipe("recipes/dml_pplcnet.yaml")              # doctest: +SKIP
        >>> result = mutual.fit(recipe, overwrite=True)                          # doctest: +SKIP
        >>> result.best_peer, result.history[-1]["eval"]["a"]["top1"]            # doctest: +SKIP
        ('b', 0.9887)
    """
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other: go on with the run, or start over")
    callbacks = check_callbacks(callbacks)
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    recipe = restrict_to_job(split_launch(recipe)).resolved()
    folder = RunFolder.of(recipe)
    environment = init_environment(recipe)
    comm = environment.comm
    with comm.raise_together():
        if comm.is_main:  # the process that tracks
            check_trackers(recipe)
    with exclusive_access(folder, comm):
        launch = LaunchSettings.of(recipe, comm)
        predecessor = find_predecessor(folder, recipe, comm, launch, resume=resume, overwrite=overwrite)
        saved_recipe = None if predecessor is None else predecessor.recipe
        if predecessor is not None:
            recipe = _as_successor(recipe, predecessor)
        tries_threads = recipe.train.threads is None
        recipe = resolve_launch(recipe, saved_recipe, launch)
        assert recipe.train.precision is not None, "it is resolved"
        assert recipe.train.threads is not None, "it is resolved"
        environment = replace(environment, precision=recipe.train.precision)
        with torch_threads(recipe.train.threads), room_for_graphs([recipe]):
            recipe = _resolve_weights(recipe, comm, saved_recipe)
            recipe = resolve_placement(recipe, environment, saved_recipe)
            recipe = resolve_tuning(recipe, environment, tries_threads=tries_threads)
        assert recipe.train.threads is not None, "it may have been tuned"
        with torch_threads(recipe.train.threads), room_for_graphs([recipe]):
            trainer = _train(recipe, environment, folder, predecessor, resume=resume, callbacks=callbacks)
        with comm.raise_together():
            local_best = _best(folder) if comm.is_main else ("", {})
        best_peer, best_scores = comm.all_gather_json(local_best)[0]
        return RunResult(folder.path, best_peer, trainer.scores, best_scores, trainer.gather_history(), trainer.final_scoring.scores)


def _resolve_weights(recipe: Recipe, comm: Communicator, saved_recipe: Recipe | None) -> Recipe:
    """Returns the recipe with a weights file in the place of each run folder; a run that is resumed keeps the file it began with.

    Collective: all ranks obtain the same recipe. A folder in which no rank finds weights stays; who builds the peer says what is wrong.
    """
    local_files = {}
    for name, peer in recipe.peers.items():
        with suppress(ValueError):
            if peer.weights_file is not None and (path := weights_path(peer.weights_file.file)) != Path(peer.weights_file.file):
                before = None if saved_recipe is None else saved_recipe.peers[name].weights_file
                local_files[name] = before.file if before is not None and Path(before.file).parent == path.parent else str(path)
    files = {name: file for each in reversed(comm.all_gather_json(local_files)) for name, file in each.items()}
    peers = {name: peer.with_weights_file(files[name]) if name in files else peer for name, peer in recipe.peers.items()}
    return recipe.model_copy(update={"peers": peers})


def _train(
    recipe: Recipe,
    environment: Environment,
    folder: RunFolder,
    predecessor: Predecessor | None,
    *,
    resume: bool,
    callbacks: Sequence[Callback],
) -> Trainer:
    """Builds a trainer, runs it to its end, and closes it whatever happens."""
    recipe = with_fused_steps(recipe, environment.precision, environment.comm.device)
    training = build_training(recipe, environment)
    recipe = recipe.with_inputs({name: asdict(model_input) for name, model_input in training.group.inputs.items()})
    indices = {name: classes.indices(training.data.info.num_classes) for name, classes in training.group.classes.items()}
    num_outputs = {name: each.num_outputs for name, each in training.group.classes.items() if each.num_outputs is not None}
    recipe = resolve_class_weights(recipe.with_classes(indices, num_outputs), training.data, max_numbers=MAX_SAVED_CLASSES)
    if predecessor is not None:
        check_same_classes(recipe, predecessor.recipe, training.data.info.class_names)
    check_same_data(training.data, environment.comm)
    trainer = build_trainer(recipe, environment, folder, training, callbacks=callbacks)
    try:
        _open(trainer, recipe, folder, predecessor, resume=resume)
        trainer.run()
    except KeyboardInterrupt:  # a second Ctrl-C, which waits for nothing
        trainer.give_up()
        raise
    finally:
        trainer.close()
    return trainer


def _open(trainer: Trainer, recipe: Recipe, folder: RunFolder, predecessor: Predecessor | None, *, resume: bool) -> None:
    """Resumes or extends the trainer and prepares the run folder; nothing was written to it before."""
    comm = trainer.comm
    extended = None if predecessor is None else predecessor.extended
    if resume or extended is not None:
        checkpoints = trainer.checkpoints if extended is None else extended.checkpoints()
        files = select_checkpoint(checkpoints, comm, trainer.training.group.placement.replica_ranks)
        if files is not None:
            trainer.resume(files, extended or folder)
    if extended is not None:
        recipe = _with_checkpoint_of(recipe, extended, trainer)
    trainer.score_initial(resume=resume or extended is not None)
    notes = environment_notes(comm)
    comm.barrier()
    with comm.raise_together():
        if comm.is_main:
            if not resume:
                folder.clear()
            folder.initialize(recipe, notes)
    trainer.open_tracker()
    if extended is not None:
        trainer.extend(extended)
    if comm.is_main:
        for (name, path), size in trainer.training.group.exchange.transfer_plan.full_feature_maps.items():
            warnings.warn(f"{name}.{path} travels as feature maps, {size:,} bytes an image; a vector (`fc:input`) is smaller", stacklevel=2)


def _as_successor(recipe: Recipe, predecessor: Predecessor) -> Recipe:
    """Returns the recipe with what the run that it goes on from has found out where it leaves that open."""
    recipe = recipe.with_tuned_of(predecessor.recipe).with_step_forms_of(predecessor.recipe).with_inputs_of(predecessor.recipe)
    if predecessor.extended is None:
        return recipe.with_extension_of(predecessor.recipe)
    return recipe if recipe.extended_from is not None else recipe.with_extension(str(predecessor.extended.path))


def _with_checkpoint_of(recipe: Recipe, extended: RunFolder, trainer: Trainer) -> Recipe:
    """Returns the recipe with the checkpoint that it goes on from. Collective: all ranks obtain the same recipe.

    Raises:
        RecipeError: the recipe names another one, or has no more epochs.
    """
    comm, step, given = trainer.comm, trainer.progress.update, recipe.extended_from
    assert given is not None, "it is extended"
    if trainer.progress.epoch >= recipe.train.epochs:
        done = f"{extended.path} has trained {trainer.progress.epoch} epochs already; give more"
        raise recipe.error("train.epochs", f"nothing is left to train: {done}")
    with comm.raise_together():
        local_digest = extended.checkpoints().listing().get(f"step_{step:08d}") if comm.is_main else None
    digest = comm.all_gather_json(local_digest)[0]
    if given.step not in (None, step) or given.sha256 not in (None, digest):
        raise recipe.error(
            "extended_from", f"the last checkpoint of {extended.path} is of step {step}, with sha256 {digest}; give these, or none"
        )
    return recipe.with_extension(given.run, step=step, sha256=digest)


def _best(folder: RunFolder) -> tuple[str, dict[str, dict[str, float | None]]]:
    """Returns the best peer of a finished run after verifying its weights, and every peer's best scores."""
    peer = folder.best_peer()
    folder.verified_weights(BEST, peer)
    return peer, folder.read_best().peers


def load_peer(run: str | Path, *, peer: str = "best", epoch: int | None = None, factory: str | None = None) -> nn.Module:
    """Loads a trained peer: a module in eval mode from images `[B, C, H, W]` to logits `[B, num_classes]`.

    Args:
        run: the run folder.
        peer: name of the peer, or `best`.
        epoch: take the weights of this epoch, which `checkpoint.keep_best` has kept, and not the best ones.
        factory: names a model of the user's own that may be built (`my_models:net`), which runs its code.

    Returns:
        The model. Its attribute `card` (a `ModelCard`) says what it was trained for: `image_size`, `mean` and `std` of pixel values in
        0 .. 1, `class_names` and more.

    Raises:
        InputError: there is no such run, no such peer in it, or its model is another factory's.

    Example:
        >>> import mutual
        >>> model = mutual.load_peer("runs/dml_pplcnet")                         # doctest: +SKIP
        >>> model.card.class_names[:3], model.card.mean                          # doctest: +SKIP
        (('0', '1', '2'), (0.3052,))
    """
    model, card = read_model(peer_file(RunFolder(Path(run)), peer, epoch=epoch), factories=[] if factory is None else [factory])
    model.card = card  # type: ignore[assignment]  # a plain attribute: neither state_dict nor an export has it
    return model
