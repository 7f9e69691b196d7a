"""An update: from one window of micro-batches to every peer's next weights.

Exactness: a window's gradient is the mean over its n images on all processes. DDP averages over the g processes that train a peer, so a
micro-batch whose `count` images gave the mean loss L contributes L * count * g / n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mutual.data import Batch, DataInfo, Window, to_inputs
from mutual.engine.monitoring import TrainMeter
from mutual.engine.training.pause import PauseSelector
from mutual.engine.training.peer_optimizer import PeerOptimizer
from mutual.group import Communicator, Group, GroupOutput, MicroBatchContext, Outputs, merge_outputs
from mutual.recipe import EMA, derive_seed


class TrainStep:
    """Runs updates; `simultaneous` and `alternating` differ in when a peer hears of its fellows' steps."""

    def __init__(
        self,
        group: Group,
        optimizers: Mapping[str, PeerOptimizer],
        meter: TrainMeter,
        *,
        comm: Communicator,
        info: DataInfo,
        seed: int,
        updates_per_epoch: int,
        prepare: Callable[[Tensor], Tensor],
        pause_selector: PauseSelector,
    ) -> None:
        self._group = group
        self._optimizers = optimizers
        self._meter = meter
        self._comm = comm
        self._info = info
        self._seed = seed
        self._updates_per_epoch = updates_per_epoch
        self._prepare = prepare
        self._pause_selector = pause_selector
        self._train_modules = [peer.train_module for peer in group.trainable]
        self._num_replicas = {peer.name: 1 if peer.comm is None else peer.comm.size for peer in group.trainable}

    def simultaneous(self, window: Window, update: int, *, measure: bool) -> None:
        """Every peer learns from the same predictions: one backward over the sum of all losses, then a step for each peer."""
        for index, batch in enumerate(window.batches):
            images, labels = self._inputs(window, index)
            with self._gradients_stay_local(window, index):
                output = self._group.forward(images, labels, self._context(window, update, index))
                scaled = [self._scaled(name, loss, batch, window) for name, loss in output.losses.items()]
                torch.autograd.backward(scaled)
            self._pause_selector.add(output.logits, labels)
            self._meter.add(output, labels, count=batch.num_valid, update=update)
        paused = self._pause_selector.select_paused_peer()
        for name, peer_optimizer in self._optimizers.items():
            if name == paused:
                peer_optimizer.skip()
            else:
                peer_optimizer.step(update, measure=measure)

    def forward_only(self, window: Window) -> GroupOutput:
        """Returns what the window's first micro-batch gives, with its graph; nothing learns from it."""
        images, labels = self._inputs(window, 0)
        return self._group.forward(images, labels, self._context(window, 0, 0))

    def alternating(self, window: Window, update: int, *, measure: bool) -> None:
        """Peer by peer, each learns from what its fellows say after their own steps (arXiv:1706.00384, algorithm 1)."""
        inputs = [self._inputs(window, index) for index in range(len(window.batches))]
        heard: list[dict[str, Outputs]] = [{} for _ in inputs]
        outputs: list[list[GroupOutput]] = [[] for _ in inputs]
        for peer in self._group.trainable:
            for index, (images, labels) in enumerate(inputs):
                batch, context = window.batches[index], self._context(window, update, index)
                for source in self._group.sources_of(peer.name):
                    if source not in heard[index]:
                        heard[index][source] = self._group.forward_without_side_effects(source, images, seed=context.seed)
                with self._gradients_stay_local(window, index):
                    own = {peer.name: self._group.forward_peer(peer.name, images, seed=context.seed)}
                    output = self._group.compute_losses(own, heard[index], labels, context, learners=[peer.name])
                    torch.autograd.backward(self._scaled(peer.name, output.losses[peer.name], batch, window))
                outputs[index].append(output.detached())
            self._optimizers[peer.name].step(update, measure=measure)
            for spoken in heard:
                for name in (peer.name, f"{peer.name}.{EMA}"):
                    spoken.pop(name, None)
        for index, (_, labels) in enumerate(inputs):
            self._meter.add(merge_outputs(outputs[index]), labels, count=window.batches[index].num_valid, update=update)

    def _scaled(self, name: str, loss: Tensor, batch: Batch, window: Window) -> Tensor:
        share = batch.num_valid * self._num_replicas[name] / window.num_samples
        return self._optimizers[name].scale(loss * share)

    def _inputs(self, window: Window, index: int) -> tuple[Tensor, Tensor]:
        batch = window.batches[index].to(self._comm.device, non_blocking=True)
        images, labels = to_inputs(batch, self._info)
        return self._prepare(images), labels

    def _gradients_stay_local(self, window: Window, index: int) -> AbstractContextManager[None]:
        """Within it, gradients synchronise only in a window's last micro-batch."""
        return nullcontext() if index == len(window.batches) - 1 else self._comm.no_sync(self._train_modules)

    def _context(self, window: Window, update: int, index: int) -> MicroBatchContext:
        seed = derive_seed(self._seed, "draw", update, index, self._group.shard[0])
        batch = window.batches[index]
        return MicroBatchContext(batch.num_valid, seed, update / self._updates_per_epoch, batch.global_batch_size)
