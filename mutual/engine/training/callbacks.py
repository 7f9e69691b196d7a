"""Callbacks: a user's own code that looks at a training while it runs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mutual.engine.monitoring import Scores
from mutual.recipe import InputError, Recipe


@dataclass(frozen=True)
class TrainingState:
    """What a callback is shown.

    Attributes:
        recipe: the resolved recipe.
        folder: the run folder.
        rank: number of this process; 0 is the main one.
        epoch: number of finished epochs.
        update: number of finished updates.
        scores: those of the last evaluation, by peer and for the ensemble; empty before the first. The same on every rank.
        models: the peers that this process holds, by name. Read them; copy a model before you run it.
    """

    recipe: Recipe
    folder: Path
    rank: int
    epoch: int
    update: int
    scores: Scores
    models: Mapping[str, nn.Module]


class Callback:
    """Base class of callbacks; each method does nothing by default.

    They are called on every rank, without gradients, and only read: weights, buffers, modes and gradients belong to the training.
    What they draw of torch's and Python's random numbers does not move the training's. An exception ends the run as any bug does; to
    stop it with a checkpoint after the current update, or in `begin` after the first, call `signal.raise_signal(signal.SIGTERM)`.

    Example:
        >>> import mutual
        >>> class Print(mutual.Callback):
        ...     def epoch(self, state):
        ...         if state.rank == 0:
        ...             print(state.epoch, state.scores["a"]["top1"])
        >>> recipe = mutual.load_recipe("recipes/dml_pplcnet.yaml")              # doctest: +SKIP
        >>> mutual.fit(recipe, callbacks=[Print()])                              # doctest: +SKIP
    """

    def begin(self, state: TrainingState) -> None:
        """Called before the first update, or the first one after a resume."""

    def update(self, state: TrainingState) -> None:
        """Called after each update and its logging; a checkpoint of it is still being written, perhaps."""

    def epoch(self, state: TrainingState) -> None:
        """Called after each epoch, its evaluation, its metrics and weights; a checkpoint of it is still being written, perhaps."""

    def end(self, state: TrainingState) -> None:
        """Called once after the last epoch, when all is on the disk; not where the run is stopped or fails."""


_EVENTS = ("begin", "update", "epoch", "end")


def check_callbacks(callbacks: Callback | Sequence[Callback]) -> tuple[Callback, ...]:
    """Returns one or several callbacks as a tuple.

    Raises:
        InputError: one of them is no `Callback`, or none of its methods would be called.
    """
    given = (callbacks,) if isinstance(callbacks, Callback) else tuple(callbacks)
    for callback in given:
        if not isinstance(callback, Callback):
            raise InputError(f"callbacks: {callback!r} is no instance of a subclass of mutual.Callback")
        inherited = [getattr(getattr(callback, event), "__func__", None) is getattr(Callback, event) for event in _EVENTS]
        if type(callback) is not Callback and all(inherited):
            raise InputError(f"callbacks: {type(callback).__name__} has none of the methods {', '.join(_EVENTS)}")
    return given


class Callbacks:
    """Several callbacks, called one after the other."""

    def __init__(self, callbacks: Sequence[Callback], recipe: Recipe, folder: Path, *, rank: int, models: Mapping[str, nn.Module]) -> None:
        self._callbacks = tuple(callbacks)
        self._recipe, self._folder, self._rank, self._models = recipe, folder, rank, dict(models)

    def __call__(self, event: str, *, epoch: int, update: int, scores: Scores) -> None:
        """Calls the method `event` of each callback."""
        if not self._callbacks:
            return
        copied = {member: dict(row) for member, row in scores.items()}
        state = TrainingState(self._recipe, self._folder, self._rank, epoch, update, copied, dict(self._models))
        for callback in self._callbacks:
            with torch.no_grad(), _preserve_rng_state():
                getattr(callback, event)(state)


@contextmanager
def _preserve_rng_state() -> Iterator[None]:
    """Context in which random numbers may be drawn; afterwards the generators are where they were."""
    before = random.getstate()
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
            yield
    finally:
        random.setstate(before)
