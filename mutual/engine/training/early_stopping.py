"""EarlyStopping: ends a training in which no peer improves any more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mutual.engine.monitoring import Scores
from mutual.group import Communicator
from mutual.recipe import Recipe


class EarlyStopping:
    """Counts the evaluations in which no trainable peer has improved its own best metric.

    A peer improves where its metric is better than its best so far by more than `train.min_improvement`; a metric that is not finite never
    is. The main process decides; the count is kept whether the recipe has a patience or not, so that a run can be extended with one.

    Args:
        recipe: the resolved one; names the peers, the metric, and how many evaluations the run waits.
        comm: the ranks of the run.
    """

    def __init__(self, recipe: Recipe, comm: Communicator) -> None:
        assert recipe.train.best_metric is not None, "it is resolved"
        self._peers = recipe.trainable
        self._metric = recipe.train.best_metric
        self._patience = recipe.train.patience
        self._min_improvement = recipe.train.min_improvement
        self._comm = comm
        self._best: dict[str, float] = {}
        self._num_waited = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether the training is to end."""
        return self._patience is not None and self._num_waited >= self._patience

    @property
    def reason(self) -> str:
        """Why it is to end."""
        plural = "s" if self._num_waited > 1 else ""
        return f"no peer has improved its {self._metric} in {self._num_waited} evaluation{plural} (train.patience)"

    def update(self, scores: Scores) -> None:
        """Takes notice of an evaluation. Collective: all ranks must call it."""
        improved = [self._improves(name, scores[name]) for name in self._peers]  # each takes over its best
        self._num_waited = 0 if any(improved) else self._num_waited + 1
        if self._patience is not None:
            self._num_waited = self._comm.all_gather_json(self._num_waited)[0]

    def extend(self) -> None:
        """Begins to count anew if the patience is exhausted, as the user wants the run to go on."""
        if self.is_exhausted:
            self._num_waited = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns every peer's best metric (of an NLL the negative), and the evaluations since one has improved."""
        return {"best": dict(self._best), "num_waited": self._num_waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._best, self._num_waited = dict(state["best"]), state["num_waited"]

    def _improves(self, name: str, row: Mapping[str, float]) -> bool:
        value = -row["nll"] if self._metric == "nll" else row[self._metric]
        if not math.isfinite(value) or value <= self._best.get(name, -math.inf) + self._min_improvement:
            return False
        self._best[name] = value
        return True
