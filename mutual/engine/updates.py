"""An update: from one window of micro-batches to every peer's next weights.

Exactness: a window's gradient is the mean over its n images on all W processes. DDP averages over processes, so a micro-batch
whose `count` images gave the mean loss L contributes L * count * W / n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mutual.data import DataInfo, Window, to_inputs
from mutual.engine.meters import TrainMeter
from mutual.engine.optimization import Optimization
from mutual.group import Group, Outputs, World
from mutual.recipe import derive_seed


class Updater:
    """Runs updates; `simultaneous` and `alternating` differ in when a peer hears of its fellows' steps."""

    def __init__(
        self,
        group: Group,
        optimizations: Mapping[str, Optimization],
        meter: TrainMeter,
        *,
        world: World,
        info: DataInfo,
        seed: int,
        prepare: Callable[[Tensor], Tensor],
    ) -> None:
        self._group = group
        self._optimizations = optimizations
        self._meter = meter
        self._world = world
        self._info = info
        self._seed = seed
        self._prepare = prepare
        self._runners = [peer.runner for peer in group.trainable]

    def simultaneous(self, window: Window, update: int, *, measure: bool) -> None:
        """Every peer learns from the same predictions: one backward over the sum of all losses, then a step for each peer."""
        for index, batch in enumerate(window.batches):
            images, labels = self._inputs(window, index)
            share = batch.count * self._world.size / window.num_samples
            with self._gradients_stay_local(window, index):
                output = self._group.forward(images, labels, count=batch.count, draw=self._draw(update, index))
                scaled = [self._optimizations[name].scale(loss * share) for name, loss in output.losses.items()]
                torch.autograd.backward(scaled)
            self._meter.add(output.values, output.logits, labels, count=batch.count, update=update)
        for optimization in self._optimizations.values():
            optimization.step(update, measure=measure)

    def alternating(self, window: Window, update: int, *, measure: bool) -> None:
        """Peer by peer, each learns from what its fellows say after their own steps (arXiv:1706.00384, algorithm 1)."""
        inputs = [self._inputs(window, index) for index in range(len(window.batches))]
        heard: list[dict[str, Outputs]] = [{} for _ in inputs]
        values: list[dict[int, Tensor]] = [{} for _ in inputs]
        logits: list[dict[str, Tensor]] = [{} for _ in inputs]
        for peer in self._group.trainable:
            for index, (images, labels) in enumerate(inputs):
                batch, draw = window.batches[index], self._draw(update, index)
                for source in self._group.sources_of(peer.name):
                    if source not in heard[index]:
                        heard[index][source] = self._group.observe(source, images, draw=draw)
                share = batch.count * self._world.size / window.num_samples
                with self._gradients_stay_local(window, index):
                    own = {peer.name: self._group.run(peer.name, images, draw=draw)}
                    output = self._group.connect(own, heard[index], labels, count=batch.count, learners=[peer.name])
                    torch.autograd.backward(self._optimizations[peer.name].scale(output.losses[peer.name] * share))
                values[index].update(output.values)
                logits[index].update(output.logits)
            self._optimizations[peer.name].step(update, measure=measure)
            for spoken in heard:
                spoken.pop(peer.name, None)
        for index, (_, labels) in enumerate(inputs):
            self._meter.add(values[index], logits[index], labels, count=window.batches[index].count, update=update)

    def _inputs(self, window: Window, index: int) -> tuple[Tensor, Tensor]:
        batch = window.batches[index].to(self._world.device, non_blocking=True)
        images, labels = to_inputs(batch, self._info)
        return self._prepare(images), labels

    def _gradients_stay_local(self, window: Window, index: int) -> AbstractContextManager[None]:
        """Within it, gradients synchronise only in a window's last micro-batch."""
        return nullcontext() if index == len(window.batches) - 1 else self._world.no_sync(self._runners)

    def _draw(self, update: int, index: int) -> int:
        return derive_seed(self._seed, "draw", update, index, self._world.rank)
