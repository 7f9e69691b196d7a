"""resolved: a recipe in which everything is said that changes numbers and is otherwise the launcher's choice."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from mutual.engine.environment import launched_precision
from mutual.group import World
from mutual.recipe import Precision, Recipe

_LIBRARIES = ("mutual", "torch", "torchvision", "accelerate", "timm", "torchmetrics", "numpy")


def resolved(recipe: Recipe, begun: Recipe | None) -> Recipe:
    """Returns `recipe` with its precision and its number of threads; a run that is resumed keeps those that it was begun with.

    Raises:
        RecipeError: the launcher asks for another mixed precision than the run was begun with.
    """
    train = recipe.train.model_copy(
        update={
            "precision": recipe.train.precision or _precision(recipe, begun),
            "threads": recipe.train.threads or (begun.train.threads if begun is not None else None) or torch.get_num_threads(),
        }
    )
    return recipe.model_copy(update={"train": train})


def _precision(recipe: Recipe, begun: Recipe | None) -> Precision:
    launched = launched_precision(recipe)
    kept = None if begun is None else begun.train.precision
    if kept is None:
        return launched
    if launched not in ("no", kept):  # accelerate launch says `no` where nobody chose
        raise recipe.error(
            "train.precision", f"the run was begun with {kept!r} and the launcher asks for {launched!r}; give train.precision={kept}"
        )
    return kept


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Within it, an operation uses `number` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment_notes(world: World) -> dict[str, Any]:
    """Returns what the numbers of a run depend on beside its recipe, as information for whoever reads it."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # run from its folder without being installed
            continue
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else world.device.type
    return {"x-environment": {**versions, "device": device, "processes": world.size}}
