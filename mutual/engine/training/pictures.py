"""Pictures: draws what an evaluation has found and what peers see, for a small part of the training's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mutual.engine.evaluation import EvaluationDetails
from mutual.engine.monitoring import (
    RUN,
    Series,
    Tracker,
    agreement_picture,
    confusion_picture,
    kl_picture,
    reliability_picture,
    views_picture,
)
from mutual.engine.training.peer_views import peer_views
from mutual.engine.training.setup import Training
from mutual.group import Communicator
from mutual.recipe import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRACTION = 0.01
"""The part of a training's time that pictures may take, but for those of the last evaluation."""
EXPECTED = 0.1
"""Seconds that pictures are expected to take before any are drawn."""
NUM_VIEWS = 16


class PictureBudget:
    """Says when pictures keep within FRACTION of the time of a training.

    Args:
        clock: returns seconds; a training's time begins now.

    Example:
        >>> seconds = iter([0.0, 5.0, 20.0, 50.0, 200.0])
        >>> budget = PictureBudget(lambda: next(seconds))
        >>> budget.is_due(), budget.is_due()  # 0.1 s of 5 s, then of 20 s
        (False, True)
        >>> budget.spend(1.0)
        >>> budget.is_due(), budget.is_due()  # with these it would be 2 s of 50 s, then of 200 s
        (False, True)
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start = clock()
        self._spent = 0.0
        self._last = EXPECTED

    def is_due(self) -> bool:
        """Whether pictures that take as long as the last ones are within the budget."""
        return self._spent + self._last <= FRACTION * (self._clock() - self._start)

    def spend(self, seconds: float) -> None:
        """Takes notice of pictures that have been drawn."""
        self._spent += seconds
        self._last = seconds


class Pictures:
    """Draws pictures at some evaluations of a training, on the main process.

    Args:
        recipe: says whether pictures are drawn at all, and whether some tracker is there to show them.
        training: data and group.
        comm: the ranks of the run.
        tracker: is given the pictures.
        budget: says when they are due.
    """

    def __init__(self, recipe: Recipe, training: Training, comm: Communicator, tracker: Tracker, budget: PictureBudget) -> None:
        self._is_on = recipe.train.pictures and bool(recipe.tracking)
        self._training = training
        self._comm = comm
        self._tracker = tracker
        self._budget = budget

    def are_due(self, *, is_last: bool) -> bool:
        """Whether the evaluation that comes next is drawn, on all ranks alike. Collective: all ranks must call it."""
        if not self._is_on or is_last:
            return self._is_on
        is_due: bool = self._comm.all_gather_json(self._budget.is_due())[0]
        return is_due

    def draw(self, details: EvaluationDetails, *, epoch: int, step: int) -> None:
        """Draws an evaluation after `step` updates, and what peers have seen of `epoch` (0 is the first)."""
        if not self._comm.is_main:
            return
        start = time.perf_counter()
        pictures = self._of_members(details) | _of_pairs(details) | self._of_views(epoch)
        self._tracker.log_pictures(pictures, step=step)
        self._budget.spend(time.perf_counter() - start)

    def _of_members(self, details: EvaluationDetails) -> dict[Series, NDArray[Any]]:
        names, pictures = self._training.data.info.class_names, {}
        for member, found in details.members.items():
            bins = found.reliability
            counts_K, confidences_K, accuracies_K = (each.numpy() for each in (bins.counts_K, bins.mean_confidences, bins.accuracies))
            picture = reliability_picture(counts_K, confidences_K, accuracies_K, f"{member}, ECE {bins.ece:.3f}")
            pictures[Series(member, "pictures/reliability")] = picture
            if found.confusion_CC is not None:
                known = names if found.classes is None else [names[index] for index in found.classes]
                pictures[Series(member, "pictures/confusion")] = confusion_picture(found.confusion_CC.numpy(), known, member)
        return pictures

    def _of_views(self, epoch: int) -> dict[Series, NDArray[Any]]:
        views = peer_views(self._training, NUM_VIEWS, epoch=epoch)
        return {Series(name, "pictures/views"): views_picture(images.numpy()) for name, images in views.items()}


def _of_pairs(details: EvaluationDetails) -> dict[Series, NDArray[Any]]:
    if len(details.peers) < 2:
        return {}
    return {
        Series(RUN, "pictures/agreement"): agreement_picture(details.agreement_PP.numpy(), details.peers),
        Series(RUN, "pictures/kl"): kl_picture(details.kl_PP.numpy(), details.peers),
    }
