"""compare: step time and memory of recipes side by side, measured in one process, update by update in turn.

Machines are noisy: ratios to the first recipe are taken within one round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from mutual.engine.costs.memory import saved_bytes, state_bytes
from mutual.engine.costs.prediction import Prediction, predict
from mutual.engine.costs.profiles import PeerProfile, measure_links, profile_peers, synchronize
from mutual.engine.runtime import init_environment, restore_switches
from mutual.engine.training import build_training
from mutual.recipe import Recipe

WARMUP = 3
"""Rounds that are not counted: allocators, kernels and compilation settle."""


@dataclass(frozen=True)
class Cost:
    """Cost of one update of a recipe.

    Attributes:
        name: the recipe's name.
        placement: replicated or parallel.
        step_seconds: median seconds of an update on the slowest rank, all its micro-batches, data loading left out.
        step_ratio: median over the rounds of its seconds divided by those of the first recipe in the same round.
        state_bytes: parameters, buffers, gradients and optimizer state on the rank that has most.
        saved_bytes: what the forwards of one micro-batch save for the backward there, the peak of activations.
        memory_ratio: the sum of both divided by that of the first recipe.
        gradient_bytes: sent by a rank in an update to average gradients, mean over the ranks.
        exchange_bytes: sent by it as outputs to peers on other ranks.
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
    predicted: Prediction | None = None


@restore_switches()
def compare(recipes: Sequence[Recipe], *, rounds: int = 20, predicts: bool = False) -> list[Cost]:
    """Measures the cost of each recipe; every round of a recipe has the same data. Collective: all ranks must call it.

    Args:
        recipes: the first is what ratios refer to.
        rounds: number of measured updates of each.
        predicts: whether the peers' profiles and the link are measured too, for `Cost.predicted`.

    Returns:
        The costs, in the order of the recipes.

    Raises:
        RecipeError: a recipe cannot be built.
    """
    benches = [_Bench(recipe) for recipe in recipes]
    seconds: list[list[float]] = [[] for _ in benches]
    for update in range(WARMUP + rounds):
        for bench, measured in zip(benches, seconds, strict=True):
            elapsed = bench.update(update)
            if update >= WARMUP:
                measured.append(elapsed)
    predictions = list(_predictions(benches)) if predicts else [None] * len(benches)
    traffic = [bench.traffic() for bench in benches]
    memory = [bench.memory() for bench in benches]
    return [
        Cost(
            name=bench.recipe.name,
            placement=bench.recipe.placement,
            step_seconds=statistics.median(measured),
            step_ratio=statistics.median(own / first for own, first in zip(measured, seconds[0], strict=True)),
            state_bytes=state,
            saved_bytes=saved,
            memory_ratio=(state + saved) / sum(memory[0]),
            gradient_bytes=gradients,
            exchange_bytes=exchanged,
            predicted=predicted,
        )
        for bench, measured, (state, saved), (gradients, exchanged), predicted in zip(
            benches, seconds, memory, traffic, predictions, strict=True
        )
    ]


def _predictions(benches: Sequence[_Bench]) -> Iterator[Prediction]:
    """Yields the prediction of each; recipes of the same peers one after another are profiled once."""
    previous = None
    profiles: dict[str, PeerProfile] = {}
    for bench in benches:
        recipe = bench.recipe
        if previous is None or (previous.peers, previous.data, previous.train) != (recipe.peers, recipe.data, recipe.train):
            profiles = bench.profiles()
        previous = recipe
        yield bench.prediction(profiles)


class _Bench:
    """A recipe built as for a training, with its first window loaded."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._environment = init_environment(recipe)
        self._comm = self._environment.comm
        self._training = build_training(recipe, self._environment)
        self._num_updates = 0
        data, shard = self._training.data, self._training.group.shard
        self._window = next(data.train_windows(0, world_size=self._comm.size, shard=shard, accumulate=recipe.train.accumulate))
        data.close()
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

    def profiles(self) -> dict[str, PeerProfile]:
        """Returns what each peer takes by itself. Collective: all ranks must call it."""
        return profile_peers(self.recipe, self._environment, self._training.data.info)

    def prediction(self, profiles: Mapping[str, PeerProfile]) -> Prediction:
        """Returns what an update is predicted to take. Collective: all ranks must call it."""
        group = self._training.group
        links = measure_links(group, self._comm)
        batches = {"batch_size": self.recipe.data.batch_size, "accumulate": self.recipe.train.accumulate}
        return predict(group.placement, group.exchange.transfer_plan, profiles, links, **batches)

    def _state_bytes(self) -> int:
        num_bytes = 0
        for name, peer in self._training.group.peers.items():
            modules = [peer.tapped] if peer.average is None else [peer.tapped, peer.average.tapped]
            optimizer = self._training.optimizers.get(name)
            num_bytes += state_bytes(modules, None if optimizer is None else optimizer.optimizer)
        return num_bytes
