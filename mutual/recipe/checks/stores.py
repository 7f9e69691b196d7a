"""The checks of `peers.X.store`: whose outputs can be kept, and which losses can read what is kept of them."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.document import Recipe
from mutual.recipe.edges import LOGITS, DistillationObjective, peer_of
from mutual.recipe.errors import Fault
from mutual.recipe.text import format_value

_READ_A_SOFTMAX = ("kd", "soft_label", "dml", "dkd", "dist", "ssld")
"""Losses to which only the probabilities matter that the logits stand for, softened by one temperature."""


def check_stores(recipe: Recipe) -> Iterator[Fault]:
    """Yields what is wrong with the stores of `recipe`."""
    first = next(iter(recipe.stores.items()), None)
    folders: dict[str, str] = {}
    for name, store in recipe.stores.items():
        where = f"peers.{name}.store"
        assert first is not None
        if not recipe.peers[name].frozen:
            yield Fault(where, f"{name!r} is trained, and its outputs change; a store is for frozen peers")
        if (store.views, store.seed) != (first[1].views, first[1].seed):
            key = "views" if store.views != first[1].views else "seed"
            theirs, own = format_value(getattr(first[1], key)), format_value(getattr(store, key))
            yield Fault(f"{where}.{key}", f"{own} here and {theirs} for {first[0]!r}: the images have one set of views for all stores")
        if store.views == "epoch" and store.seed is not None:
            yield Fault(f"{where}.seed", "an epoch's own views are drawn by the recipe's seed; give `views` a number")
        if store.views == "epoch" and (repeating := _repeating(recipe)):
            message = f"'epoch' is for images that occur once in an epoch, and data.{repeating} is given; give a number of views"
            yield Fault(f"{where}.views", message)
        other = folders.setdefault(store.folder, name)
        if other != name:
            yield Fault(f"{where}.folder", f"{format_value(store.folder)} is the store of {other!r}; give a folder of its own")
        yield from _check_readers(recipe, name)


def _repeating(recipe: Recipe) -> str | None:
    """Returns the field of `data` by which an image may occur several times in an epoch."""
    defaults = {"sampler": "shuffle", "epoch_size": None, "crops_per_image": 1}
    return next((name for name, default in defaults.items() if getattr(recipe.data, name) != default), None)


def _check_readers(recipe: Recipe, name: str) -> Iterator[Fault]:
    """The largest probabilities of a softmax do for losses that read a softmax, and for no others."""
    topk = recipe.stores[name].topk
    if topk == "all":
        return
    if recipe.data.multi_label:
        yield Fault(f"peers.{name}.store.topk", f"{topk} keeps the largest of a softmax; images with several labels need all")
        return
    temperatures: dict[float, int] = {}
    for index, objective in enumerate(recipe.objectives):
        if not isinstance(objective, DistillationObjective) or not _reads_logits(recipe, objective, name):
            continue
        arguments = objective.loss_arguments()
        if objective.loss not in _READ_A_SOFTMAX or arguments.get("standardize"):
            yield Fault(
                f"peers.{name}.store.topk",
                f"{topk} keeps the largest of a softmax, and objectives.{index} ({objective.loss}) reads the logits themselves; take all",
            )
            continue
        first = temperatures.setdefault(arguments["temperature"], index)
        if first == index and len(temperatures) > 1:
            one, other = temperatures
            yield Fault(
                f"peers.{name}.store.topk",
                f"{topk} holds for one temperature; objectives.{temperatures[one]} has {one:g}, objectives.{index} {other:g}; take all",
            )
            return


def _reads_logits(recipe: Recipe, objective: DistillationObjective, name: str) -> bool:
    learners = [learner for learner in recipe.learners_of(objective) if learner in recipe.peers]
    read = {peer_of(source) for learner in learners for source in recipe.sources_of(objective, learner)}
    if name in {member for learner in learners for member in recipe.members_of(objective, learner)}:
        return True
    return name in read and (objective.gate == "correct" or LOGITS in _source_at(objective, name))


def _source_at(objective: DistillationObjective, name: str) -> tuple[str, ...]:
    at = objective.at if objective.source_at is None else objective.source_at
    return () if isinstance(at, dict) and name not in at else objective.source_at_of(name)  # a mapping without it is another fault
