"""Floor: what an update of a recipe takes beside updates written by hand, its kernels and its host synchronisations."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mutual.data import Window
from mutual.engine.costs.op_counts import OpCounts, count_ops
from mutual.engine.costs.plain_updates import JointStep, PlainLoops, joint_obstacle
from mutual.engine.runtime import Environment
from mutual.engine.training import Training
from mutual.recipe import Recipe

UPDATE, PLAIN, JOINT = "update", "plain", "joint"


class Elapsed(NamedTuple):
    """Seconds of an update: on the clock, and of the processor, which another program's load changes less."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class FloorCost:
    """An update beside its floors.

    Attributes:
        seconds: by floor (plain: the peers' plain loops; joint: the joint step written by hand) the median seconds.
        ratios: by floor the median over the rounds of the update's seconds divided by the floor's in the same round.
        cpu_ratios: the same of the processor's seconds, of all threads.
        joint_left_out: why there is no joint step; None where there is one.
        shares: by part of an update its share of the time.
        kernels: of an update, of the plain loops and of the joint step; None where compiled code is not counted.
        num_host_syncs: host synchronisations of an update; None where compiled code is not counted.
        host_syncs: each of these: how often, its operator, and the line that asked for it.
    """

    seconds: dict[str, float]
    ratios: dict[str, float]
    cpu_ratios: dict[str, float]
    joint_left_out: str | None
    shares: dict[str, float]
    kernels: dict[str, int] | None
    num_host_syncs: int | None
    host_syncs: list[str]


class Floor:
    """The floors of a recipe, and what an update of it is made of.

    Args:
        recipe: what is measured.
        training: built from it.
        environment: of one process.
    """

    def __init__(self, recipe: Recipe, training: Training, environment: Environment) -> None:
        self._device = environment.comm.device
        self._is_compiled = any(map(recipe.is_compiled, recipe.peers))
        self.left_out = joint_obstacle(recipe, training)
        self.updates: dict[str, Callable[[Window], None]] = {PLAIN: PlainLoops(recipe, training, environment)}
        if self.left_out is None:
            self.updates[JOINT] = JointStep(recipe, training, environment)

    def cost(self, rounds: Sequence[Mapping[str, Elapsed]], shares: dict[str, float], counts: Mapping[str, OpCounts]) -> FloorCost:
        """Returns the cost, from what the update and the floors took in each round."""
        syncs = Counter(map(str, counts[UPDATE].host_syncs))
        is_counted = not self._is_compiled or self._device.type == "cuda"
        return FloorCost(
            seconds={name: statistics.median(each[name].seconds for each in rounds) for name in self.updates},
            ratios={name: statistics.median(each[UPDATE].seconds / each[name].seconds for each in rounds) for name in self.updates},
            cpu_ratios={
                name: statistics.median(each[UPDATE].cpu_seconds / each[name].cpu_seconds for each in rounds) for name in self.updates
            },
            joint_left_out=self.left_out,
            shares=shares,
            kernels={name: each.kernels for name, each in counts.items()} if is_counted else None,
            num_host_syncs=syncs.total() if is_counted else None,
            host_syncs=[f"{times} x {sync}" for sync, times in syncs.items()],
        )

    def count(self, update: Callable[[Window], None], window: Window) -> dict[str, OpCounts]:
        """Returns the kernels and host synchronisations of an update and of the floors."""
        counts = {}
        for name, run in {UPDATE: update, **self.updates}.items():
            with count_ops(self._device, is_compiled=self._is_compiled) as counts[name]:
                run(window)
        return counts
