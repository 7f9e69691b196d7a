"""TrainStep: from one window of micro-batches to every peer's next weights.

Exactness: a window's gradient is the mean over its n images on all ranks. DDP averages over the g ranks that train a peer, so the mean
loss L of a micro-batch's v valid images contributes L * v * g / n.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mutual.data import DeviceTransfer, Window, mixed
from mutual.engine.monitoring import TrainMeter
from mutual.engine.training.pause import PauseSelector
from mutual.engine.training.peer_optimizer import PeerOptimizer
from mutual.group import Communicator, Group, GroupOutput, MicroBatchContext, Outputs, merge_outputs, replica_comm
from mutual.recipe import EMA, derive_seed


@dataclass(frozen=True)
class _MicroBatch:
    """A micro-batch of this rank on its device.

    Attributes:
        images: pixels `[B, C, H, W]`, or views of them `[V, B, C, H, W]`.
        labels: `[B]`, or `[B, C]` where images have several.
        context: its number of valid images (the rest are padding), seed and epoch.
        is_last: whether it is the window's last one, whose backward synchronises the gradients.
        source_outputs: outputs of the frozen peers; alternating: of all sources, with their current weights.
        learner_outputs: output of the learners that run together, of one after another, detached.
    """

    images: Tensor
    labels: Tensor
    context: MicroBatchContext
    is_last: bool
    source_outputs: dict[str, Outputs] = field(default_factory=dict)
    learner_outputs: list[GroupOutput] = field(default_factory=list)

    def invalidate(self, peer: str) -> None:
        """Forgets the outputs of a peer and of its moving average, whose weights have changed."""
        for name in (peer, f"{peer}.{EMA}"):
            self.source_outputs.pop(name, None)


class TrainStep:
    """Updates all peers of a group from one window of micro-batches.

    Args:
        group: the peers and their edges.
        optimizers: one for each trainable peer that this rank holds.
        meter: accumulates each micro-batch's losses.
        comm: the ranks of the run.
        num_classes: of the data.
        seed: the recipe's, for random draws that depend on update and micro-batch alone.
        updates_per_epoch: number of windows of an epoch.
        pause_selector: decides which peer skips an update.
        is_alternating: whether peers step one after another and not all at once.
        backward: `joint`, or `per_peer`: whether all peers that step at once share a backward.
    """

    def __init__(
        self,
        group: Group,
        optimizers: Mapping[str, PeerOptimizer],
        meter: TrainMeter,
        *,
        comm: Communicator,
        num_classes: int,
        seed: int,
        updates_per_epoch: int,
        pause_selector: PauseSelector,
        is_alternating: bool = False,
        backward: Literal["joint", "per_peer"] = "joint",
    ) -> None:
        self._group = group
        self._optimizers = optimizers
        self._meter = meter
        self._comm = comm
        self._transfer = DeviceTransfer(comm.device)
        self._num_classes = num_classes
        self._seed = seed
        self._updates_per_epoch = updates_per_epoch
        self._pause_selector = pause_selector
        self._forward = group.forward_per_peer if backward == "per_peer" else self._forward_jointly
        self._update = self.alternating if is_alternating else self.simultaneous
        self._train_modules = [peer.train_module for peer in group.trainable]
        self._num_replicas = {peer.name: replica_comm(peer).size for peer in group.trainable}

    def __call__(self, window: Window, update: int, *, measure: bool) -> None:
        """Runs one update. Collective: all ranks must call it.

        Args:
            window: its micro-batches.
            update: its index in the training; 0 is the first.
            measure: whether the optimizers measure their gradient norms.
        """
        with self._group.shared_inputs.kept():
            self._update(window, update, measure=measure)

    def simultaneous(self, window: Window, update: int, *, measure: bool) -> None:
        """Updates all peers from the same outputs: one backward over the sum of all losses, or one for each peer, then their steps."""
        for micro_batch in self._micro_batches(window, update):
            with self._no_sync_before_last(micro_batch):
                for output in self._forward(micro_batch.images, micro_batch.labels, micro_batch.context, micro_batch.source_outputs):
                    torch.autograd.backward([self._scale(name, loss, micro_batch, window) for name, loss in output.losses.items()])
                    micro_batch.learner_outputs.append(output.detached())
            output = merge_outputs(micro_batch.learner_outputs)
            self._pause_selector.add(output.logits, micro_batch.labels)
            self._meter.add(output, micro_batch.labels, num_valid=micro_batch.context.num_valid, update=update)
            self._release(micro_batch)
        pauses = self._pause_selector.decide()
        for name, optimizer in self._optimizers.items():
            optimizer.step(update, measure=measure, pauses=pauses.get(name))

    def alternating(self, window: Window, update: int, *, measure: bool) -> None:
        """Updates one peer after another, each from the others' outputs after their own steps (arXiv:1706.00384, algorithm 1)."""
        micro_batches = list(self._micro_batches(window, update))
        for peer in self._group.trainable:
            for micro_batch in micro_batches:
                self._compute_source_outputs(micro_batch, peer.name)
                with self._no_sync_before_last(micro_batch):
                    output = self._group.forward_learner(
                        peer.name, micro_batch.images, micro_batch.source_outputs, micro_batch.labels, micro_batch.context
                    )
                    torch.autograd.backward(self._scale(peer.name, output.losses[peer.name], micro_batch, window))
                micro_batch.learner_outputs.append(output.detached())
            self._optimizers[peer.name].step(update, measure=measure)
            for micro_batch in micro_batches:
                micro_batch.invalidate(peer.name)
        for micro_batch in micro_batches:
            output = merge_outputs(micro_batch.learner_outputs)
            self._meter.add(output, micro_batch.labels, num_valid=micro_batch.context.num_valid, update=update)

    def forward_only(self, window: Window) -> Iterator[GroupOutput]:
        """Yields the outputs for the window's first micro-batch with their graphs, as an update computes them; nothing is updated."""
        micro_batch = self._micro_batch(window, 0, update=0)
        yield from self._forward(micro_batch.images, micro_batch.labels, micro_batch.context)

    def fill_stores(self, window: Window, update: int) -> None:
        """Computes what the stores of frozen peers lack of the window's images; nothing is updated."""
        frozen_forwards = self._group.frozen_forwards
        for index in range(len(window.batches)):
            micro_batch = self._micro_batch(window, index, update=update)
            with self._group.shared_inputs.kept():
                for name in frozen_forwards.stores:
                    frozen_forwards.read_or_compute(self._group.peers[name], [(micro_batch.images, micro_batch.context)])

    def recompute_stored(self, window: Window) -> dict[str, Outputs]:
        """Returns by frozen peer with a store its outputs for the window's first micro-batch, computed whatever the store holds."""
        micro_batch = self._micro_batch(window, 0, update=0)
        stored = self._group.frozen_forwards.stores
        return {name: self._group.forward_peer(name, micro_batch.images, seed=micro_batch.context.seed) for name in stored}

    def _micro_batches(self, window: Window, update: int) -> Iterator[_MicroBatch]:
        """Yields the micro-batches with the outputs of the frozen peers, computed for as many at once as a frozen forward takes.

        The others are on the device only later, and those that the caller has let go no more.
        """
        for indices in _chunks(window.sizes, self._group.frozen_forwards.chunk_size):
            chunk = [self._micro_batch(window, index, update=update) for index in indices]
            self._add_frozen_outputs(chunk)
            while chunk:
                yield chunk.pop(0)

    def _micro_batch(self, window: Window, index: int, *, update: int) -> _MicroBatch:
        batch = window.batches[index]
        pixels, labels = mixed(self._transfer(batch), num_classes=self._num_classes)
        context = MicroBatchContext(
            num_valid=batch.num_valid,
            seed=derive_seed(self._seed, "draw", update, index, self._group.shard[0]),
            epoch=update / self._updates_per_epoch,
            global_batch_size=batch.global_batch_size,
            keys_B2=batch.keys_B2,
        )
        return _MicroBatch(pixels, labels, context, is_last=index == len(window.batches) - 1)

    def _add_frozen_outputs(self, micro_batches: Sequence[_MicroBatch]) -> None:
        outputs = self._group.frozen_forwards.outputs([(micro_batch.images, micro_batch.context) for micro_batch in micro_batches])
        for micro_batch, outputs_by_peer in zip(micro_batches, outputs, strict=True):
            micro_batch.source_outputs.update(outputs_by_peer)

    def _release(self, micro_batch: _MicroBatch) -> None:
        """Lets go of what was computed for a micro-batch."""
        micro_batch.source_outputs.clear()
        self._group.shared_inputs.drop(micro_batch.images)

    def _compute_source_outputs(self, micro_batch: _MicroBatch, learner: str) -> None:
        """Computes the outputs of the learner's sources that are missing or out of date."""
        for source in self._group.sources_of(learner):
            if source not in micro_batch.source_outputs:
                outputs = self._group.forward_without_side_effects(source, micro_batch.images, seed=micro_batch.context.seed)
                micro_batch.source_outputs[source] = outputs

    def _forward_jointly(
        self, images: Tensor, labels: Tensor, context: MicroBatchContext, frozen_outputs: Mapping[str, Outputs] | None = None
    ) -> Iterator[GroupOutput]:
        yield self._group.forward(images, labels, context, frozen_outputs)

    def _scale(self, name: str, loss: Tensor, micro_batch: _MicroBatch, window: Window) -> Tensor:
        """Returns what a peer's mean loss of the micro-batch contributes to the window's, times its fp16 loss scale."""
        return self._optimizers[name].scale(loss * (micro_batch.context.num_valid * self._num_replicas[name] / window.num_samples))

    def _no_sync_before_last(self, micro_batch: _MicroBatch) -> AbstractContextManager[None]:
        """Context in which gradients stay local unless it is the window's last micro-batch."""
        return nullcontext() if micro_batch.is_last else self._comm.no_sync(self._train_modules)


def _chunks(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yields the indices of `sizes` in order, as many at a time as have a sum of at most `most`, and at least one."""
    chunk: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if chunk and total + size > most:
            yield chunk
            chunk, total = [], 0
        chunk.append(index)
        total += size
    if chunk:
        yield chunk
