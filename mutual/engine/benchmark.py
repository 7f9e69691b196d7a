"""Benchmark: step time and memory of recipes side by side, measured in one process, update by update in turn.

Machines are noisy: what is quoted is the ratio to the first recipe, each ratio taken within one round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.engine.environment import start
from mutual.engine.meters import TrainMeter
from mutual.engine.parts import build_parts
from mutual.engine.pausing import Pausing
from mutual.engine.updates import Updater
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


def compare(recipes: Sequence[Recipe], *, rounds: int = 20) -> list[Cost]:
    """Returns the cost of each recipe, in their order; the same data and micro-batch are given to every round of a recipe.

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
        )
        for bench, measured, (state, saved), (gradients, exchanged) in zip(benches, seconds, memory, traffic, strict=True)
    ]


class _Bench:
    """A recipe built as for a training, with its first window held."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        environment = start(recipe)
        world, accumulate = environment.world, recipe.train.accumulate
        data, self._group, self._optimizations = build_parts(recipe, environment)
        self._world = world
        self._updates = 0
        part, parts = self._group.part
        self._window = next(data.train_windows(0, world_size=world.size, rank=part, parts=parts, accumulate=accumulate))
        data.close()
        self._updater = Updater(
            self._group,
            self._optimizations,
            TrainMeter(self._group.edges, recipe.trainable, world, counts=self._group.counts),
            world=world,
            info=data.info,
            seed=recipe.seed,
            updates_per_epoch=data.num_windows(world_size=world.size, accumulate=accumulate),
            prepare=lambda images: images,
            pausing=Pausing(recipe.train.pause, world),
        )
        self._run = self._updater.alternating if recipe.train.update == "alternating" else self._updater.simultaneous
        self._group.train()

    def update(self, number: int) -> float:
        """Returns the seconds that an update took on the slowest process."""
        self._world.barrier()
        _synchronize(self._world.device)
        begin = time.perf_counter()
        self._run(self._window, number, measure=False)
        _synchronize(self._world.device)
        elapsed = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        self._updates += 1
        return float(self._world.gather(elapsed.to(self._world.device)).max())

    def traffic(self) -> tuple[float, float]:
        """Returns the bytes that a process has sent for each update, mean over the processes: for gradients, for outputs."""
        sent = torch.tensor([self._world.traffic.gradient_bytes, self._group.exchange.sent_bytes], device=self._world.device)
        gradients, exchanged = (self._world.sum(sent) / (self._world.size * self._updates)).tolist()
        return gradients, exchanged

    def memory(self) -> tuple[int, int]:
        """Returns the bytes of the state and of what one micro-batch's forwards save for the backward."""
        held = {parameter.data_ptr() for peer in self._group.peers.values() for parameter in peer.tapped.parameters()}
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in held:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = self._updater.look(self._window)  # the graph must live while its tensors are counted
        mine = torch.tensor([self._state_bytes(), sum(storages.values())], device=self._world.device)
        del output
        state, saved = max(self._world.gather(mine).tolist(), key=sum)
        return state, saved

    def _state_bytes(self) -> int:
        total = 0
        for peer in self._group.peers.values():
            modules = [peer.tapped] if peer.average is None else [peer.tapped, peer.average.tapped]
            tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
            total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            total += sum(parameter.numel() * parameter.element_size() for parameter in peer.parameters())  # their gradients
        for optimization in self._optimizations.values():
            for state in optimization.optimizer.state.values():
                total += sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, Tensor))
        return total


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
