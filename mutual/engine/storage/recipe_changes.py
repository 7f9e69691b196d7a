"""check_unchanged: what of a recipe may be another when a run is resumed or extended, and the command that does what else is wanted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from mutual.engine.storage.run_folder import METRICS
from mutual.recipe import Recipe

_FREE_TO_CHANGE = (
    "name|output|checkpoint|placement|exchange|tracking",
    r"train\.(log_every|pictures|progress|accumulate|timeout_seconds|tune_seconds)",
    r"data\.(batch_size|eval_batch_size|workers|prefetch|on_bad_image|root|val_root|download|train_list|val_list|test|unlabelled|unlabelled_root|decoded)",
    r"peers\.\w+\.(weights|rank|ranks|cost|expect|store\.folder)",
)
_EXTENDABLE = (
    "extended_from|schedule",
    r"peers\.\w+\.schedule",
    r"train\.(epochs|patience|min_improvement|eval_every|clip_grad_norm|clip_parameter_norm)",
    r"(peers\.\w+\.)?optimizer\.(lr|weight_decay|momentum|nesterov|betas|eps)",
)
_FOUND_OUT = re.compile(r"train\.(precision|threads)|(peers\.\w+\.)?optimizer\.(fused|foreach)")
"""Key paths that a run resolves by its launcher and its device where the recipe says null."""
FREE_TO_CHANGE = re.compile("|".join(_FREE_TO_CHANGE))
"""Key paths that a resumed run may change; that an update is of as many images, and frozen weights the same, is checked elsewhere."""
EXTENDABLE = re.compile("|".join((*_FREE_TO_CHANGE, *_EXTENDABLE)))
"""Key paths that a run may change which begins where another one has ended."""


def check_resumed(recipe: Recipe, saved: Recipe, folder: Path) -> None:
    """Refuses to resume the run in `folder`, which `saved` has trained, with a recipe that would change its numbers.

    Raises:
        RecipeError: it would; the line has the command that does what may have been wanted.
    """
    changed = _differences(saved, recipe, FREE_TO_CHANGE)
    for path, (old, new) in changed.items():
        if all(EXTENDABLE.fullmatch(each) for each in changed):
            command = _command(recipe, folder, "--extend", str(folder), epochs=_more_epochs(recipe, folder))
            remedy = f"`{command}` goes on from its last state with that"
        else:
            remedy = f"`{_command(recipe, folder, *_weights(recipe, saved, folder))}` begins a run with its weights"
        raise recipe.error(
            path,
            f"the run was started with {old!r} and cannot go on with {new!r}; {remedy}; or give the old value, or --overwrite, or another "
            "name=...",
        )


def check_extended(recipe: Recipe, saved: Recipe, folder: Path) -> None:
    """Refuses to extend the run in `folder`, which `saved` has trained, by a recipe of other peers, objectives or data.

    Raises:
        RecipeError: it is.
    """
    for path, (old, new) in _differences(saved, recipe, EXTENDABLE).items():
        command = _command(recipe, folder, *_weights(recipe, saved, folder), without_extension=True)
        raise recipe.error(
            path,
            f"{folder} was trained with {old!r} and cannot be extended with {new!r}; an extension may change epochs, patience, "
            "schedules, the optimizers' rates, weight decay and momentum, checkpoints and logging; give the old value; or "
            f"`{command}` begins a run with its weights",
        )


def recipe_differences(saved: Recipe, recipe: Recipe, free: re.Pattern[str]) -> Mapping[str, tuple[object, object]]:
    """Returns by key path what the run of `saved` was trained with and what `recipe` says, where these differ and the path is not `free`.

    What a run finds out by itself is no difference where `recipe` leaves it open. Imports no torch.
    """
    given = recipe.resolved().with_tuned_of(saved).with_step_forms_of(saved).with_inputs_of(saved)
    given = given.with_classes_of(saved).with_class_weights_of(saved)
    given = _with_weights_of(given.with_extension_of(saved), saved)
    differences = _differences(saved.resolved(), given, free)
    return {path: change for path, change in differences.items() if change[1] is not None or not _FOUND_OUT.fullmatch(path)}


def _with_weights_of(recipe: Recipe, saved: Recipe) -> Recipe:
    """Returns `recipe` with the weights file that `saved` took from a run folder where this one names that folder."""
    peers = dict(recipe.peers)
    for name, peer in recipe.peers.items():
        given, then = peer.weights_file, saved.peers[name].weights_file if name in saved.peers else None
        if given is not None and then is not None and Path(given.file) in Path(then.file).parents:
            peers[name] = peer.with_weights_file(then.file)
    return recipe.model_copy(update={"peers": peers})


def _command(recipe: Recipe, folder: Path, *words: str, without_extension: bool = False, epochs: int | None = None) -> str:
    """Returns the user's own command with `words` and another name, and `epochs` where it is given."""
    replaced = {"name"} if epochs is None else {"name", "train.epochs"}
    overrides = [text for path, text in recipe.origin.overrides if path not in replaced and not path.startswith("extended_from")]
    name = recipe.name if without_extension else _free_name(folder)
    more = [] if epochs is None else [f"train.epochs={epochs}"]
    quoted = map(shlex.quote, [recipe.origin.file, *words, f"name={name}", *overrides, *more])
    return f"python -m mutual.train {' '.join(quoted)}"


def _more_epochs(recipe: Recipe, folder: Path) -> int | None:
    """Returns twice the epochs that the run in `folder` has finished if `recipe` has no more than these, or else None."""
    try:
        finished = json.loads((folder / METRICS).read_text(encoding="utf-8").splitlines()[-1])["epoch"]
    except (OSError, ValueError, LookupError, TypeError):  # there is none yet, or it is damaged
        return None
    return 2 * finished if isinstance(finished, int) and finished >= recipe.train.epochs else None


def _free_name(folder: Path) -> str:
    number = 2
    while (folder.parent / f"{folder.name}_{number}").exists():
        number += 1
    return f"{folder.name}_{number}"


def _weights(recipe: Recipe, saved: Recipe, folder: Path) -> list[str]:
    """Returns the overrides by which peers begin with the best weights that peers of their names have had."""
    names = [name for name in recipe.trainable if name in saved.trainable and recipe.peers[name].model == saved.peers[name].model]
    return [f"peers.{name}.weights={folder / 'best' / f'{name}.safetensors'}" for name in names]


def _differences(saved: Recipe, recipe: Recipe, free: re.Pattern[str]) -> Mapping[str, tuple[object, object]]:
    """Returns by key path what was and what is, where these differ and the path is not `free`."""
    return _compare(saved.model_dump(mode="json"), recipe.model_dump(mode="json"), free)


def _compare(old: object, new: object, free: re.Pattern[str], path: str = "") -> dict[str, tuple[object, object]]:
    if free.fullmatch(path) or old == new:
        return {}
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {path: (old, new)}
    differences: dict[str, tuple[object, object]] = {}
    for key in dict.fromkeys([*old, *new]):
        differences |= _compare(old.get(key), new.get(key), free, f"{path}.{key}" if path else str(key))
    return differences
