"""compare: step time and memory of recipes side by side, measured in one process, update by update in turn.

Machines are noisy: ratios to the first recipe are taken within one round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from mutual.engine.costs.cost_prediction import CostPrediction, predict_cost
from mutual.engine.costs.memory import saved_bytes, state_bytes
from mutual.engine.costs.profiles import PeerProfile, measure_links, profile_peers, synchronize
from mutual.engine.runtime import init_environment, restore_switches
from mutual.engine.training import build_training
from mutual.recipe import Recipe

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


@restore_switches()
def compare(recipes: Sequence[Recipe], *, rounds: int = 20, predicts: bool = False) -> list[MeasuredCost]:
    """Measures the cost of each recipe; every round of a recipe has the same data. Collective: all ranks must call it.

    Args:
        recipes: the first is what ratios refer to.
        rounds: number of measured updates of each.
        predicts: whether the peers' profiles and the link are measured too, for `MeasuredCost.predicted`.

    Returns:
        The costs, in the order of the recipes.

    Raises:
        RecipeError: a recipe cannot be built.
    """
    benchmarks = [_Benchmark(recipe) for recipe in recipes]
    seconds: list[list[float]] = [[] for _ in benchmarks]
    for update in range(WARMUP + rounds):
        for benchmark, measured in zip(benchmarks, seconds, strict=True):
            elapsed = benchmark.update(update)
            if update >= WARMUP:
                measured.append(elapsed)
    predictions = list(_predictions(benchmarks)) if predicts else [None] * len(benchmarks)
    traffic = [benchmark.traffic() for benchmark in benchmarks]
    memory = [benchmark.memory() for benchmark in benchmarks]
    for benchmark in benchmarks:
        benchmark.close()
    return [
        MeasuredCost(
            name=benchmark.recipe.name,
            placement=benchmark.recipe.placement,
            step_seconds=statistics.median(measured),
            step_ratio=statistics.median(own / first for own, first in zip(measured, seconds[0], strict=True)),
            state_bytes=state,
            saved_bytes=saved,
            memory_ratio=(state + saved) / sum(memory[0]),
            gradient_bytes=gradients,
            exchange_bytes=exchanged,
            store_bytes=benchmark.store_bytes,
            predicted=predicted,
        )
        for benchmark, measured, (state, saved), (gradients, exchanged), predicted in zip(
            benchmarks, seconds, memory, traffic, predictions, strict=True
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
    """A recipe built as for a training, with its first window loaded."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._environment = init_environment(recipe)
        self._comm = self._environment.comm
        self._training = build_training(recipe, self._environment)
        self._num_updates = 0
        self._window = next(self._training.windows(0))
        self._training.data.close()
        self._training.group.train()

    def update(self, index: int) -> float:
        """Returns the seconds that an update takes on the slowest rank."""
        self._comm.barrier()
        synchronize(self._comm.device)
        start = time.perf_counter()
        self._training.train_step(self._window, index, measure=False)
        synchronize(self._comm.device)
        elapsed = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
        self._num_updates += 1
        return float(self._comm.all_gather(elapsed.to(self._comm.device)).max())

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
