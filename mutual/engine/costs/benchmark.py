"""compare_costs: step time and memory of recipes side by side, measured in one process, update by update in turn.

Machines are noisy: ratios to the first recipe are taken within one round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from mutual.data import Window
from mutual.engine.costs.cost_prediction import CostPrediction, predict_cost
from mutual.engine.costs.floor import UPDATE, Elapsed, Floor, FloorCost
from mutual.engine.costs.memory import saved_bytes, state_bytes
from mutual.engine.costs.profiles import PeerProfile, measure_links, profile_peers, synchronize
from mutual.engine.costs.time_spans import measure_shares, write_trace
from mutual.engine.runtime import init_environment, restore_switches
from mutual.engine.training import build_training
from mutual.group import room_for_graphs
from mutual.recipe import InputError, Recipe

PLACEMENTS = ("replicated", "parallel")
"""The placements that `auto` chooses from."""
WARMUP = 3
"""Rounds that are not counted: allocators, kernels and compilation settle."""


@dataclass(frozen=True)
class MeasuredCost:
    """Cost of one update of a recipe.

    Attributes:
        name: the recipe's name.
        placement: replicated or parallel.
        step_seconds: median seconds of an update on the slowest rank, all its micro-batches, data loading left out.
        step_ratio: median over the rounds of its seconds divided by those of the first recipe in the same round.
        state_bytes: parameters, buffers, gradients and optimizer state on the rank that has most.
        saved_bytes: what the forwards of one micro-batch save for the backward there at a time, the peak of activations; what a backward
            computes once more of checkpointed blocks is left out.
        memory_ratio: the sum of both divided by that of the first recipe.
        gradient_bytes: sent by a rank in an update to average gradients, mean over the ranks.
        exchange_bytes: sent by it as outputs to peers on other ranks.
        store_bytes: bytes that one view of one image takes in the stores of frozen peers.
        predicted: from the peers' profiles and the link alone, if asked for.
        floor: beside updates written by hand, if asked for.
    """

    name: str
    placement: str
    step_seconds: float
    step_ratio: float
    state_bytes: int
    saved_bytes: int
    memory_ratio: float
    gradient_bytes: float
    exchange_bytes: float
    store_bytes: int = 0
    predicted: CostPrediction | None = None
    floor: FloorCost | None = None


@restore_switches()
def compare_costs(
    recipes: Sequence[Recipe], *, rounds: int = 20, predicts: bool = False, floors: bool = False, trace: Path | None = None
) -> list[MeasuredCost]:
    """Measures the cost of each recipe; every round of a recipe has the same data. Collective: all ranks must call it.

    Args:
        recipes: the first is what ratios refer to.
        rounds: number of measured updates of each.
        predicts: whether the peers' profiles and the link are measured too, for `MeasuredCost.predicted`.
        floors: whether updates written by hand are measured in the same rounds, for `MeasuredCost.floor`; in one process only.
        trace: where a Chrome trace of a few updates of the first recipe is written.

    Returns:
        The costs, in the order of the recipes.

    Raises:
        RecipeError: a recipe cannot be built.
        InputError: floors are asked for of several processes.
    """
    with room_for_graphs(recipes):
        return _compare(recipes, rounds=rounds, predicts=predicts, floors=floors, trace=trace)


def _compare(recipes: Sequence[Recipe], *, rounds: int, predicts: bool, floors: bool, trace: Path | None) -> list[MeasuredCost]:
    benchmarks = [_Benchmark(recipe, floors=floors) for recipe in recipes]
    measured: list[list[dict[str, Elapsed]]] = [[] for _ in benchmarks]
    for number in range(WARMUP + rounds):
        for benchmark, times in zip(benchmarks, measured, strict=True):
            elapsed = benchmark.round(number)
            if number >= WARMUP:
                times.append(elapsed)
    seconds = [[elapsed[UPDATE].seconds for elapsed in of_rounds] for of_rounds in measured]
    if trace is not None:
        benchmarks[0].trace(trace)
    predictions = list(_predictions(benchmarks)) if predicts else [None] * len(benchmarks)
    traffic = [benchmark.traffic() for benchmark in benchmarks]
    memory = [benchmark.memory() for benchmark in benchmarks]
    costs_beside_floors = [benchmark.floor_cost(times) for benchmark, times in zip(benchmarks, measured, strict=True)]
    for benchmark in benchmarks:
        benchmark.close()
    return [
        MeasuredCost(
            name=benchmark.recipe.name,
            placement=benchmark.recipe.placement,
            step_seconds=statistics.median(own),
            step_ratio=statistics.median(each / first for each, first in zip(own, seconds[0], strict=True)),
            state_bytes=state,
            saved_bytes=saved,
            memory_ratio=(state + saved) / sum(memory[0]),
            gradient_bytes=gradients,
            exchange_bytes=exchanged,
            store_bytes=benchmark.store_bytes,
            predicted=predicted,
            floor=floor,
        )
        for benchmark, own, (state, saved), (gradients, exchanged), predicted, floor in zip(
            benchmarks, seconds, memory, traffic, predictions, costs_beside_floors, strict=True
        )
    ]


def _predictions(benchmarks: Sequence[_Benchmark]) -> Iterator[CostPrediction]:
    """Yields the prediction of each; recipes of the same peers one after another are profiled once."""
    previous = None
    profiles: dict[str, PeerProfile] = {}
    for benchmark in benchmarks:
        recipe = benchmark.recipe
        if previous is None or (previous.peers, previous.data, previous.train) != (recipe.peers, recipe.data, recipe.train):
            profiles = benchmark.profiles()
        previous = recipe
        yield benchmark.prediction(profiles)


class _Benchmark:
    """A recipe built as for a training, with its first window loaded; and updates of it that are written by hand, if asked for."""

    def __init__(self, recipe: Recipe, *, floors: bool = False) -> None:
        self.recipe = recipe
        self._environment = init_environment(recipe)
        self._comm = self._environment.comm
        if floors and self._comm.size > 1:
            raise InputError(f"--floor measures one process, and these are {self._comm.size}; start it with python alone")
        self._training = build_training(recipe, self._environment)
        self._num_updates = 0
        self._window = next(self._training.windows(0))
        self._training.data.close()
        self._training.group.train()
        self._floor = Floor(recipe, self._training, self._environment) if floors else None

    def round(self, number: int) -> dict[str, Elapsed]:
        """Returns what an update takes on the slowest rank, and what the floors take; every other round in reverse order."""
        updates = {UPDATE: self._update, **({} if self._floor is None else self._floor.updates)}
        order = list(updates)[:: 1 if number % 2 == 0 else -1]
        return {name: self._elapsed(partial(updates[name], self._window)) for name in order}

    def trace(self, path: Path) -> None:
        """Writes a Chrome trace of a few updates of the main process. Collective: all ranks must call it."""
        write_trace(self._training, self._comm.device, path if self._comm.is_main else None, update=self._update)

    def floor_cost(self, rounds: Sequence[Mapping[str, Elapsed]]) -> FloorCost | None:
        """Returns what an update takes beside its floors, from what the rounds took; None without floors."""
        if self._floor is None:
            return None
        shares = measure_shares(self._training, self._comm.device, rounds=len(rounds), update=self._update)
        return self._floor.cost(rounds, shares, self._floor.count(self._update, self._window))

    def _update(self, window: Window) -> None:
        self._training.train_step(window, self._num_updates, measure=False)
        self._num_updates += 1

    def _elapsed(self, run: Callable[[], None]) -> Elapsed:
        self._comm.barrier()
        synchronize(self._comm.device)
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        synchronize(self._comm.device)
        elapsed = torch.tensor([time.perf_counter() - start, time.process_time() - cpu_start], dtype=torch.float64)
        return Elapsed(*self._comm.all_gather(elapsed.to(self._comm.device)).amax(dim=0).tolist())

    def traffic(self) -> tuple[float, float]:
        """Returns the bytes that a rank has sent in an update, mean over the ranks: for gradients, for outputs."""
        counts = [self._comm.traffic.gradient_bytes, self._training.group.exchange.sent_bytes]
        sent = self._comm.all_reduce_sum(torch.tensor(counts, device=self._comm.device))
        gradients, exchanged = (sent / (self._comm.size * self._num_updates)).tolist()
        return gradients, exchanged

    def memory(self) -> tuple[int, int]:
        """Returns the bytes of the state and of what one micro-batch's forwards save for the backward."""
        parameters = [parameter for peer in self._training.group.peers.values() for parameter in peer.tapped.parameters()]
        saved = saved_bytes(lambda: self._training.train_step.forward_only(self._window), parameters)
        local = torch.tensor([self._state_bytes(), saved], device=self._comm.device)
        state, saved = max(self._comm.all_gather(local).tolist(), key=sum)
        return state, saved

    @property
    def store_bytes(self) -> int:
        """Bytes of a view of an image in all stores."""
        return sum(store.shards.record_bytes for store in self._training.stores.values())

    def close(self) -> None:
        """Lets others write into the stores."""
        self._training.close()

    def profiles(self) -> dict[str, PeerProfile]:
        """Returns what each peer takes by itself. Collective: all ranks must call it."""
        return profile_peers(self.recipe, self._environment, self._training.data.info)

    def prediction(self, profiles: Mapping[str, PeerProfile]) -> CostPrediction:
        """Returns what an update is predicted to take. Collective: all ranks must call it."""
        group = self._training.group
        links = measure_links(group, self._comm)
        train = self.recipe.train
        batches = {"batch_size": self.recipe.data.batch_size, "accumulate": train.accumulate}
        return predict_cost(group.placement, group.exchange.transfer_plan, profiles, links, **batches, backward=train.backward)

    def _state_bytes(self) -> int:
        num_bytes = 0
        for name, peer in self._training.group.peers.items():
            optimizer = self._training.optimizers.get(name)
            num_bytes += state_bytes(peer.modules, None if optimizer is None else optimizer.optimizer)
        return num_bytes
