"""Benchmark: step time and memory of recipes side by side, measured in one process, update by update in turn.

Machines are noisy: what is quoted is the ratio to the first recipe, each ratio taken within one round.
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
from mutual.engine.monitoring import TrainMeter
from mutual.engine.runtime import init_environment, restore_switches
from mutual.engine.training import PauseSelector, TrainStep, build_training
from mutual.recipe import Recipe

WARMUP = 3
"""Rounds that are not counted: allocators, kernels and compilation settle."""


@dataclass(frozen=True)
class Cost:
    """What one update of a recipe costs.

    Attributes:
        name: the recipe's name.
        placement: where its peers are.
        step_seconds: median seconds of an update on the slowest process, all its micro-batches, data loading left out.
        step_ratio: median over the rounds of its seconds over those of the first recipe in the same round.
        state_bytes: parameters, buffers, gradients and optimizer state on the process that holds most.
        saved_bytes: what the forwards of one micro-batch keep for the backward there, the peak of activations.
        memory_ratio: the sum of both over that of the first recipe.
        gradient_bytes: what a process sends for each update to average gradients, mean over the processes.
        exchange_bytes: what it sends of outputs to peers elsewhere.
        predicted: what was to be expected of the peers and the link alone, where it was asked for.
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
    """Returns the cost of each recipe, in their order; the same data and micro-batch are given to every round of a recipe.

    With `predicts`, beside what was measured stands what the peers' profiles and the link let expect.

    Raises:
        RecipeError: a recipe cannot be built.
    """
    benches = [_Bench(recipe) for recipe in recipes]
    seconds: list[list[float]] = [[] for _ in benches]
    for number in range(WARMUP + rounds):
        for bench, measured in zip(benches, seconds, strict=True):
            elapsed = bench.update(number)
            if number >= WARMUP:
                measured.append(elapsed)
    predictions = list(_predictions(benches)) if predicts else [None] * len(benches)
    traffic = [bench.traffic() for bench in benches]
    memory = [bench.memory() for bench in benches]
    return [
        Cost(
            name=bench.recipe.name,
            placement=bench.recipe.placement,
            step_seconds=statistics.median(measured),
            step_ratio=statistics.median(mine / first for mine, first in zip(measured, seconds[0], strict=True)),
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
    """Yields what was to be expected; recipes of the same peers one after another are profiled once."""
    before = None
    profiles: dict[str, PeerProfile] = {}
    for bench in benches:
        if before is None or (before.peers, before.data, before.train) != (bench.recipe.peers, bench.recipe.data, bench.recipe.train):
            profiles = bench.profiles()
        before = bench.recipe
        yield bench.prediction(profiles)


class _Bench:
    """A recipe built as for a training, with its first window held."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._environment = environment = init_environment(recipe)
        comm, accumulate = environment.comm, recipe.train.accumulate
        data, self._group, self._optimizers = build_training(recipe, environment)
        self.comm = comm
        self._info = data.info
        self._updates = 0
        part, parts = self._group.shard
        self._window = next(data.train_windows(0, world_size=comm.size, rank=part, num_shards=parts, accumulate=accumulate))
        data.close()
        self._train_step = TrainStep(
            self._group,
            self._optimizers,
            TrainMeter(self._group.edges, recipe.trainable, comm, is_scoring_rank=self._group.is_scoring_rank),
            comm=comm,
            info=data.info,
            seed=recipe.seed,
            updates_per_epoch=data.num_windows(world_size=comm.size, accumulate=accumulate),
            prepare=lambda images: images,
            pause_selector=PauseSelector(recipe.train.pause, comm),
        )
        self._run = self._train_step.alternating if recipe.train.update == "alternating" else self._train_step.simultaneous
        self._group.train()

    def update(self, number: int) -> float:
        """Returns the seconds that an update took on the slowest process."""
        self.comm.barrier()
        synchronize(self.comm.device)
        begin = time.perf_counter()
        self._run(self._window, number, measure=False)
        synchronize(self.comm.device)
        elapsed = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        self._updates += 1
        return float(self.comm.all_gather(elapsed.to(self.comm.device)).max())

    def traffic(self) -> tuple[float, float]:
        """Returns the bytes that a process has sent for each update, mean over the processes: for gradients, for outputs."""
        sent = torch.tensor([self.comm.traffic.gradient_bytes, self._group.exchange.sent_bytes], device=self.comm.device)
        gradients, exchanged = (self.comm.all_reduce_sum(sent) / (self.comm.size * self._updates)).tolist()
        return gradients, exchanged

    def memory(self) -> tuple[int, int]:
        """Returns the bytes of the state and of what one micro-batch's forwards save for the backward."""
        parameters = [parameter for peer in self._group.peers.values() for parameter in peer.tapped.parameters()]
        saved = saved_bytes(lambda: self._train_step.forward_only(self._window), parameters)
        mine = torch.tensor([self._state_bytes(), saved], device=self.comm.device)
        state, saved = max(self.comm.all_gather(mine).tolist(), key=sum)
        return state, saved

    def profiles(self) -> dict[str, PeerProfile]:
        """Returns what each peer takes by itself; every process must call it."""
        return profile_peers(self.recipe, self._environment, self._info)

    def prediction(self, profiles: Mapping[str, PeerProfile]) -> Prediction:
        """Returns what an update was to be expected to take; every process must call it."""
        links = measure_links(self._group, self.comm)
        plan = {"batch_size": self.recipe.data.batch_size, "accumulate": self.recipe.train.accumulate}
        return predict(self._group.placement, self._group.exchange.transfer_plan, profiles, links, **plan)

    def _state_bytes(self) -> int:
        total = 0
        for name, peer in self._group.peers.items():
            modules = [peer.tapped] if peer.average is None else [peer.tapped, peer.average.tapped]
            peer_optimizer = self._optimizers.get(name)
            total += state_bytes(modules, None if peer_optimizer is None else peer_optimizer.optimizer)
        return total
