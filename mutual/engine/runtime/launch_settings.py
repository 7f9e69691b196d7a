"""LaunchSettings: what the launcher chooses and changes numbers, and a recipe in which it is resolved."""

from __future__ import annotations

import os
import platform
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mutual.data import available_cores, local_processes
from mutual.engine.runtime.chosen_threads import chosen_threads
from mutual.engine.runtime.environment import launched_precision
from mutual.engine.runtime.facts import installed_version
from mutual.group import Communicator
from mutual.recipe import Precision, Recipe

_LIBRARIES = ("mutual", "torch", "torchvision", "accelerate", "timm", "torchmetrics", "numpy")


@dataclass(frozen=True)
class LaunchSettings:
    """What the launcher chose on the main process, for all ranks.

    Attributes:
        precision: mixed precision.
        threads: CPU threads of an operation: what its user chose or, on a CPU, its share of the cores that it may use.
        warns_of_load: whether nobody chose these threads, they are several, and this process is the one that tells the user.
    """

    precision: Precision
    threads: int
    warns_of_load: bool = False

    @classmethod
    def of(cls, recipe: Recipe, comm: Communicator) -> LaunchSettings:
        """Returns the choice of the main process. Collective: all ranks must call it.

        Raises:
            RecipeError: the launcher asks for a precision that peers cannot be trained in.
        """
        with comm.raise_together():
            precision = launched_precision(recipe)
        launched = comm.all_gather_json([precision, _chosen_threads(comm), available_cores(), local_processes(), socket.gethostname()])
        precision, threads, cores, num_processes, host = launched[0]
        num_ranks = sum(each[-1] == host for each in launched)
        share = max(cores // max(num_processes, num_ranks), 1)
        return cls(precision, threads or share, threads is None and share > 1 and comm.is_main)


def resolve_launch(recipe: Recipe, saved_recipe: Recipe | None, launch: LaunchSettings) -> Recipe:
    """Returns `recipe` with its precision and number of threads resolved; a resumed run keeps those that it was started with.

    Args:
        recipe: what is to be trained.
        saved_recipe: of the run that is resumed, or None.
        launch: what the launcher has chosen.

    Raises:
        RecipeError: the launcher asks for another mixed precision than the run was started with.
    """
    saved = recipe.train if saved_recipe is None else saved_recipe.train
    precision = recipe.train.precision or saved.precision or launch.precision
    if recipe.train.precision is None and launch.precision not in ("no", precision):  # accelerate launch says `no` where nobody chose
        raise recipe.error(
            "train.precision",
            f"the run was started with {precision!r} and the launcher asks for {launch.precision!r}; give train.precision={precision}",
        )
    threads = recipe.train.threads or saved.threads or launch.threads
    if launch.warns_of_load and not (recipe.train.threads or saved.threads or recipe.train.tune):
        _warn_of_load(threads)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": precision, "threads": threads})})


def _chosen_threads(comm: Communicator) -> int | None:
    """Returns the threads that the user chose; beside a GPU, what the process has, as little is left for them to compute."""
    return chosen_threads() if comm.device.type == "cpu" else torch.get_num_threads()


def _warn_of_load(threads: int) -> None:
    """Warns where other processes compute: threads wait for the one of them that has no core, in each operation."""
    load = os.getloadavg()[0]
    if load > (os.cpu_count() or 1):
        warnings.warn(
            f"this machine's load is {load:.1f} on {os.cpu_count()} cores, and {threads} threads that wait for each other may be slower "
            "than one; give train.threads=1, or train.tune=true",
            stacklevel=3,
        )


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Context in which an operation uses `threads` threads.

    Example:
        >>> with torch_threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment_notes(comm: Communicator) -> dict[str, Any]:
    """Returns what a run's numbers depend on besides its recipe, for readers: versions, device, number of processes."""
    installed = {library: installed_version(library) for library in _LIBRARIES}
    versions = {"python": platform.python_version(), **{library: each for library, each in installed.items() if each is not None}}
    device = torch.cuda.get_device_name(comm.device) if comm.device.type == "cuda" else comm.device.type
    return {"x-environment": {**versions, "device": device, "processes": comm.size}}
