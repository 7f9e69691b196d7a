"""Trainer: the training loop, from the first window to the last, wherever it was cut."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mutual.data import Batch, DataModule, Window
from mutual.engine.codistillation import WeightExchange
from mutual.engine.evaluation import Evaluator
from mutual.engine.monitoring import Scores, SkippedImages, StragglerMonitor, Tracker, TrainMeter, with_rank
from mutual.engine.runtime import Environment, StoppedError, StopSignals
from mutual.engine.storage import RunFolder
from mutual.engine.training.best_weights import BestWeights
from mutual.engine.training.callbacks import Callback, Callbacks
from mutual.engine.training.checkpointer import Checkpointer, Progress
from mutual.engine.training.pause import PauseSelector
from mutual.engine.training.peer_collector import PeerCollector
from mutual.engine.training.peer_optimizer import PeerOptimizer
from mutual.engine.training.train_step import TrainStep
from mutual.group import Group, Peer, all_ranks_or_raise, replica_comm
from mutual.recipe import Recipe


class Trainer:
    """Trains the group; everything it needs is built and handed in."""

    def __init__(
        self,
        recipe: Recipe,
        environment: Environment,
        data: DataModule,
        group: Group,
        optimizers: Mapping[str, PeerOptimizer],
        folder: RunFolder,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.recipe = recipe
        self.comm = environment.comm
        self.data = data
        self.group = group
        self.optimizers = optimizers
        self.progress = Progress()
        self.scores: Scores = {}
        self._environment = environment
        self._plan = {"world_size": self.comm.size, "accumulate": recipe.train.accumulate}
        self._num_windows = data.num_windows(**self._plan)
        window_size = self.comm.size * recipe.data.batch_size * recipe.train.accumulate
        self._collector = PeerCollector(self.comm, group.placement)
        self._stale = WeightExchange(recipe, group, self.comm)
        self._sent = (0.0, 0.0, 0)
        self._checkpoints = folder.checkpoints(keep=recipe.checkpoint.keep)
        self._saved: Progress | None = None
        self._lines: list[str] = []
        self._best = BestWeights(recipe, folder, group, data.info, self._collector)
        self._folder = folder
        models = {peer.name: peer.model for peer in group.peers.values()}
        self._callbacks = Callbacks(callbacks, recipe, folder.path, rank=self.comm.rank, models=models)
        self._meter = TrainMeter(group.edges, recipe.trainable, self.comm, is_scoring_rank=group.is_scoring_rank)
        self._state = Checkpointer(
            recipe,
            group,
            optimizers,
            self._meter,
            self._best,
            comm=self.comm,
            collector=self._collector,
            window_size=window_size,
            fingerprint=data.fingerprint,
        )
        self._skipped_images = SkippedImages(recipe, data, self.comm, part=group.shard)
        self._pause_selector = PauseSelector(recipe.train.pause, self.comm)
        self._pace = StragglerMonitor(group, self.comm, synchronized_forwards=recipe.train.sync_batchnorm)
        train_step = self._build_train_step()
        self._update = train_step.alternating if recipe.train.update == "alternating" else train_step.simultaneous
        info, device = data.info, self.comm.device
        self._evaluator = Evaluator(
            list(recipe.peers), recipe.trainable, num_classes=info.num_classes, device=device, multi_label=info.multi_label
        )

    def run(self) -> None:
        """Trains from where `progress` stands to the end.

        Raises:
            StoppedError: SIGTERM, SIGUSR1 or SIGINT came; a checkpoint has been written.
            NonFiniteLossError: a loss diverged; the last good checkpoint stays.
        """
        progress, poll = self.progress, self.comm.stop_poll()
        self._stale.refresh()
        self._call("begin")
        with StopSignals() as signals:
            while progress.epoch < self.recipe.train.epochs:
                self.group.train()
                self._tracker.begin_epoch(progress.epoch, done=progress.window)
                for window in self._pace.timed(self._windows(), progress.update):
                    due = self._log_due()
                    self._update(window, progress.update, measure=due)
                    progress.window += 1
                    progress.update += 1
                    self._stale(progress.update)
                    self._tracker.advance()
                    if due:
                        self._log()
                    if self._checkpoint_due():
                        self._save()
                    self._call("update")
                    if poll(signals.received is not None):
                        poll.drain()
                        self._stop(signals)
                if poll.drain():
                    self._stop(signals)
                self._finish_epoch()
        self._stale.publish(progress.update)
        self._call("end")

    def resume(self, files: Mapping[str, bytes]) -> None:
        """Takes over the state that a checkpoint holds.

        Raises:
            InputError: its updates are of another number of images, the data or a frozen peer's weights are others now.
        """
        restored = self._state.restore(files)
        self.progress, self.scores, self._lines = restored.progress, restored.scores, restored.lines
        self._saved = replace(self.progress)

    @property
    def history(self) -> list[dict[str, Any]]:
        """What metrics.jsonl says of each epoch. Collective: all ranks must call it."""
        records: list[dict[str, Any]] = self.comm.all_gather_json([json.loads(line) for line in self._tracker.lines])[0]
        return records

    def open_tracker(self) -> None:
        """Begins to log, at the point where the run stands."""
        self._tracker = Tracker(
            self.recipe,
            self._environment.accelerator,
            self._folder.path,
            step=self.progress.update,
            lines=self._lines,
            updates_per_epoch=self._num_windows,
        )
        self._tracker.say(self._description())
        self._tracker.begin_table()

    def close(self) -> None:
        """Closes the tracker and the loaders."""
        self._pace.close()
        self._tracker.close()
        self.data.close()

    def _build_train_step(self) -> TrainStep:
        return TrainStep(
            self.group,
            self.optimizers,
            self._meter,
            comm=self.comm,
            info=self.data.info,
            seed=self.recipe.seed,
            updates_per_epoch=self._num_windows,
            prepare=self._prepare,
            pause_selector=self._pause_selector,
        )

    def _finish_epoch(self) -> None:
        progress = self.progress
        if self._meter.pending:
            self._log()
        for peer in self.group.trainable:
            replica_comm(peer).average_buffers(peer.modules)
        epoch = progress.epoch + 1
        evaluated = epoch % self.recipe.train.eval_every == 0 or epoch == self.recipe.train.epochs
        scores = self._evaluate() if evaluated else None
        self._skipped_images.report(lambda line: self._tracker.say(f"note: {line}"), when=f"epoch {epoch}: ")
        with self._pace.during("writes the epoch's weights and metrics"):
            self._best.finish_epoch(epoch, scores)
            self._tracker.log_epoch(epoch, progress.update, self._meter.end_epoch(), scores)
        progress.epoch, progress.window = epoch, 0
        if self._epoch_checkpoint_due(epoch):
            self._save()
        self._call("epoch")

    def _call(self, event: str) -> None:
        self._callbacks(event, epoch=self.progress.epoch, update=self.progress.update, scores=self.scores)

    def _windows(self) -> Iterator[Window]:
        part, parts = self.group.shard
        windows = self.data.train_windows(self.progress.epoch, start=self.progress.window, rank=part, parts=parts, **self._plan)
        return with_rank(windows, self.comm)

    def _evaluate(self) -> Scores:
        self.group.eval()
        part, parts = self.group.shard
        batches = with_rank(self.data.eval_batches(world_size=self.comm.size, rank=part, parts=parts), self.comm)
        timed = self._pace.evaluated(batches, self.progress.update)

        def predict(images: Tensor, batch: Batch) -> dict[str, Tensor]:
            return self.group.predict(images, total=batch.total)

        self.scores = self._evaluator(predict, timed, self.data.info, prepare=self._prepare, is_scoring_rank=self.group.is_scoring_rank)
        return self.scores

    def _log_due(self) -> bool:
        return (self.progress.update + 1) % self.recipe.train.log_every == 0 or self.progress.window + 1 == self._num_windows

    def _log(self) -> None:
        rates = {f"learning_rate/{name}": peer_optimizer.learning_rate for name, peer_optimizer in self.optimizers.items()}
        norms = {f"grad_norm/{name}": each.grad_norm.item() for name, each in self.optimizers.items() if each.grad_norm is not None}
        others = self._collector.all_gather_dict(rates | norms) | self._traffic() | self._pause_selector.flush() | self._pace.flush()
        self._tracker.log_interval(self.progress.update, self._meter.flush(), others)

    def _traffic(self) -> dict[str, float]:
        """Returns the megabytes (10^6 bytes) that a process sent for each update since the last call, mean over the processes."""
        if self.comm.size == 1:
            return {}
        gradients, exchanged, updates = self.comm.traffic.gradient_bytes, self.group.exchange.sent_bytes, self.progress.update
        before, self._sent = self._sent, (gradients, exchanged, updates)
        sent = torch.tensor([gradients - before[0], exchanged - before[1]], device=self.comm.device)
        gradient_mb, exchange_mb = (self.comm.all_reduce_sum(sent) / (1e6 * self.comm.size * max(updates - before[2], 1))).tolist()
        return {"traffic/gradients_mb": gradient_mb, "traffic/exchange_mb": exchange_mb}

    def _checkpoint_due(self) -> bool:
        every, progress = self.recipe.checkpoint.every_steps, self.progress
        if every is None or progress.update % every:
            return False
        return progress.window < self._num_windows or not self._epoch_checkpoint_due(progress.epoch + 1)  # that one is of the same step

    def _epoch_checkpoint_due(self, epoch: int) -> bool:
        every = self.recipe.checkpoint.every_epochs
        return (every is not None and epoch % every == 0) or epoch == self.recipe.train.epochs

    def _stop(self, signals: StopSignals) -> None:
        self._save()
        received = self.comm.all_gather_json(signals.received.name if signals.received is not None else "")
        cause = next(filter(None, received))
        raise StoppedError(f"stopped by {cause} after step {self.progress.update}; the checkpoint is written, go on with --resume")

    def _save(self) -> None:
        """Writes a checkpoint, once; every process must call it, and no weights of a diverged run get into it."""
        if self._saved == self.progress:
            return
        if self._meter.pending:
            self._log()
        self._state.check_weights(self.progress.update)
        files = self._state.files(self.progress, self.scores, self._tracker.lines)

        def write() -> None:
            if self.comm.is_main:
                with self._pace.during("writes a checkpoint"):
                    whole = {name: content for name, content in files.items() if content is not None}
                    self._checkpoints.save(self.progress.update, whole)

        all_ranks_or_raise(self.comm, write)  # a full disk of the main process ends all
        self._saved = replace(self.progress)

    def _description(self) -> str:
        info, comm = self.data.info, self.comm
        sizes = self._collector.all_gather_dict({peer.name: _sizes(peer) for peer in self.group.trainable})
        learners = [f"{name} ({sizes[name]}{self._place(name)})" for name in self.recipe.trainable]
        published = self.recipe.exchange.reads
        frozen = [
            f"{name} ({'as published' if name in published else 'frozen'}{self._place(name)})"
            for name, peer in self.recipe.peers.items()
            if peer.frozen
        ]
        processes = f"{comm.size} process{'es' if comm.size > 1 else ''} on {comm.device.type}, precision {self._environment.precision}"
        data = f"{info.num_train:,} training and {info.num_val:,} validation images, {info.num_classes} classes"
        return f"{self._folder.path}: {', '.join([*learners, *frozen])}; {data}; {processes}"

    def _place(self, name: str) -> str:
        placement = self.group.placement
        return "" if placement.is_replicated else f", rank {', '.join(map(str, placement.replica_ranks[name]))}"

    def _prepare(self, images: Tensor) -> Tensor:
        if not self.recipe.train.channels_last:
            return images
        if images.dim() == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return torch.stack([view.contiguous(memory_format=torch.channels_last) for view in images])


def _sizes(peer: Peer) -> str:
    model, adapters = (sum(p.numel() for p in module.parameters()) for module in (peer.model, peer.tapped.adapters))
    return f"{model:,} parameters" + (f" and {adapters:,} in adapters" if adapters else "")
