"""Weights over time: the factor on an objective's weight as a pure function of the epoch, so that a resumed run needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable

from mutual.recipe import Objective, WeightSchedule

Factor = Callable[[float], float]


def weight_factor(objective: Objective, *, epochs: int) -> Factor:
    """Returns the factor on the objective's weight at an epoch (fractions count), by its schedule and its linear gate."""
    scheduled = _constantly if objective.schedule is None else _scheduled(objective.schedule, epochs)
    if objective.gate != "linear":
        return scheduled
    return lambda epoch: scheduled(epoch) * epoch / epochs


def _constantly(epoch: float) -> float:
    return 1.0


def _scheduled(schedule: WeightSchedule, epochs: int) -> Factor:
    begin = schedule.from_epoch
    end = float(epochs) if schedule.until_epoch is None else schedule.until_epoch

    def factor(epoch: float) -> float:
        if schedule.name == "constant":
            return 1.0 if begin <= epoch < end else 0.0
        done = min(max((epoch - begin) / max(end - begin, 1e-12), 0.0), 1.0)
        return schedule.start + (schedule.end - schedule.start) * _rise(schedule.name, done)

    return factor


def _rise(name: str, done: float) -> float:
    match name:
        case "cosine":
            return (1 - math.cos(math.pi * done)) / 2
        case "ramp_up":
            return math.exp(-5 * (1 - done) ** 2) if done > 0 else 0.0
        case _:
            return done
