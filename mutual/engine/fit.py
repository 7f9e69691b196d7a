"""fit: a recipe to a run folder; load_peer: a peer of a run folder as a plain model."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mutual.engine.checkpoints import Checkpoints
from mutual.engine.costs import settled
from mutual.engine.environment import start
from mutual.engine.evaluation import Scores
from mutual.engine.folder import RunFolder
from mutual.engine.parts import build_parts
from mutual.engine.stale import as_job, divided
from mutual.engine.trainer import Trainer
from mutual.models import read_model
from mutual.recipe import InputError, Recipe

_FREE_TO_CHANGE = re.compile(
    r"name|output|checkpoint|placement|exchange|train\.(log_every|progress|accumulate)|data\.(batch_size|workers|on_bad_image|root|download|train_list|val_list|unlabelled)|peers\.\w+\.(weights|rank|ranks|cost)"
)


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


def fit(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> RunResult:
    """Trains `recipe` and returns what came of it.

    Args:
        recipe: as `load_recipe` returns it.
        resume: go on from the run's last good checkpoint, or start where there is none.
        overwrite: remove what an earlier run of this name left.

    Raises:
        RecipeError: the recipe, the data or the launcher do not fit; nothing has been written.
        InputError: the run folder holds a checkpoint, and neither `resume` nor `overwrite` was given.
        StoppedError: SIGTERM, SIGUSR1 or SIGINT came; a checkpoint has been written.
        NonFiniteLossError: a loss diverged; the last good checkpoint stays.
    """
    recipe = as_job(divided(recipe))
    folder = RunFolder.of(recipe)
    held = folder.holds_checkpoint()
    if held and not (resume or overwrite):
        raise InputError(f"{folder.path} holds a checkpoint; add --resume to go on, --overwrite to start anew, or give another name=...")
    begun = folder.recipe() if held and resume else None
    if begun is not None:
        _check_same(recipe, begun)
    environment = start(recipe)
    recipe = settled(recipe, environment, begun)
    data, group, optimizations = build_parts(recipe, environment)
    trainer = Trainer(recipe, environment, data, group, optimizations, folder)
    files = Checkpoints(folder.checkpoints, keep=recipe.checkpoint.keep).latest() if resume else None
    if files is not None:
        trainer.resume(files)
    environment.world.barrier()
    if environment.world.is_main:
        if files is None:
            folder.clear()
        folder.write_recipe(recipe)
    environment.world.barrier()
    trainer.open_tracker()
    if environment.world.is_main:
        for (name, path), size in group.exchange.routes.raw_maps.items():
            warnings.warn(f"{name}.{path} travels as feature maps, {size:,} bytes an image; a vector (`fc:input`) is smaller", stacklevel=2)
    try:
        trainer.run()
    finally:
        trainer.close()
    return RunResult(folder.path, folder.read_best()["peer"], trainer.scores)


def load_peer(run: str | Path, *, peer: str = "best") -> nn.Module:
    """Returns a trained peer of the run folder `run`, in eval mode: images `[B, C, H, W]` to plain logits `[B, num_classes]`.

    Raises:
        InputError: there is no such run, or no such peer in it.
    """
    model, _ = read_model(peer_file(RunFolder(Path(run)), peer))
    return model


def peer_file(folder: RunFolder, peer: str) -> Path:
    """Returns the file of the best weights of `peer`, which may be `best`.

    Raises:
        InputError: there is no such run, no such peer in it, or no epoch has been evaluated.
    """
    recipe = folder.recipe()
    best = folder.read_best()
    name = best["peer"] if peer == "best" else peer
    if name not in recipe.trainable:
        raise InputError(f"{folder.path} trained no peer {peer!r}; it trained {', '.join(recipe.trainable)}, and `best` is {best['peer']}")
    return folder.best(name)


def _check_same(recipe: Recipe, trained: Recipe) -> None:
    """Refuses to go on with a recipe whose numbers would be others than those of the run so far."""
    changed = _differences(trained.model_dump(mode="json"), recipe.model_dump(mode="json"))
    for path, (old, new) in changed.items():
        raise recipe.error(
            path, f"the run was begun with {old!r} and cannot go on with {new!r}; give the old value, or --overwrite, or another name=..."
        )


def _differences(old: object, new: object, path: str = "") -> dict[str, tuple[object, object]]:
    if _FREE_TO_CHANGE.fullmatch(path) or old == new:
        return {}
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {path: (old, new)}
    found: dict[str, tuple[object, object]] = {}
    for key in dict.fromkeys([*old, *new]):
        found |= _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    return found
