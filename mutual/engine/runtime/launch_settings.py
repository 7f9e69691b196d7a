"""resolved: a recipe in which everything is said that changes numbers and is otherwise the launcher's choice."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from mutual.engine.runtime.environment import launched_precision
from mutual.group import Communicator, all_ranks_or_raise
from mutual.recipe import Precision, Recipe

_LIBRARIES = ("mutual", "torch", "torchvision", "accelerate", "timm", "torchmetrics", "numpy")


@dataclass(frozen=True)
class LaunchSettings:
    """What the launcher chose on the main process, and holds for all: mixed precision, and the CPU threads of a process."""

    precision: Precision
    threads: int

    @classmethod
    def of(cls, recipe: Recipe, comm: Communicator) -> LaunchSettings:
        """Returns the choice of the main process; every process must call it.

        Raises:
            RecipeError: the launcher was told a precision that peers cannot be trained in.
        """
        return cls(*all_ranks_or_raise(comm, lambda: (launched_precision(recipe), torch.get_num_threads()))[0])


def resolve_launch(recipe: Recipe, saved_recipe: Recipe | None, launch: LaunchSettings) -> Recipe:
    """Returns `recipe` with its precision and its number of threads; a run that is resumed keeps those that it was begun with.

    Raises:
        RecipeError: the launcher asks for another mixed precision than the run was begun with.
    """
    kept = recipe.train if saved_recipe is None else saved_recipe.train
    precision = recipe.train.precision or kept.precision or launch.precision
    if recipe.train.precision is None and launch.precision not in ("no", precision):  # accelerate launch says `no` where nobody chose
        raise recipe.error(
            "train.precision",
            f"the run was begun with {precision!r} and the launcher asks for {launch.precision!r}; give train.precision={precision}",
        )
    number = recipe.train.threads or kept.threads or launch.threads
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": precision, "threads": number})})


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Within it, an operation uses `number` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment_notes(comm: Communicator) -> dict[str, Any]:
    """Returns what the numbers of a run depend on beside its recipe, as information for whoever reads it."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # run from its folder without being installed
            continue
    device = torch.cuda.get_device_name(comm.device) if comm.device.type == "cuda" else comm.device.type
    return {"x-environment": {**versions, "device": device, "processes": comm.size}}
