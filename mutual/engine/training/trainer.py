"""Trainer: the training loop, from the first window to the last, wherever it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mutual.data import Window
from mutual.engine.codistillation import WeightExchange
from mutual.engine.monitoring import Scores, SkippedImages, StragglerMonitor, Tracker, TrafficMeter, naming_rank
from mutual.engine.runtime import Environment, StoppedError, StopSignals
from mutual.engine.storage import CheckpointStore, RunFolder
from mutual.engine.training.best_weights import BestWeights
from mutual.engine.training.callbacks import Callbacks
from mutual.engine.training.checkpoint_saver import CheckpointSaver
from mutual.engine.training.checkpointer import Checkpointer, Progress
from mutual.engine.training.early_stopping import EarlyStopping
from mutual.engine.training.final_scoring import FinalScoring
from mutual.engine.training.initial_scores import InitialScoring
from mutual.engine.training.peer_collector import PeerCollector
from mutual.engine.training.pictures import Pictures
from mutual.engine.training.run_summary import write_summary
from mutual.engine.training.scorer import Scorer
from mutual.engine.training.setup import Training
from mutual.engine.training.summary import describe_run
from mutual.group import StopPoll
from mutual.recipe import Recipe


class Trainer:
    """Trains a group: updates, logs, evaluates and writes checkpoints; `build_trainer` builds one.

    Args:
        recipe: what is trained.
        environment: the ranks, their devices and the precision.
        folder: the run folder.
        training: data, group, optimizers and the train step.
        best_weights: writes each peer's last and best weights.
        callbacks: the user's, called while it runs.
        checkpointer: turns the state of these parts into files and back.
        checkpoints: holds these files.
        collector: collects what ranks know of their peers.
        early_stopping: says when no peer improves any more.
        final_scoring: scores the test images at the end.
        initial_scoring: scores peers before the first update, once in the life of a run.
        pictures: draws what some evaluations find.
        saver: writes checkpoints behind the training.
        scorer: scores the peers.
        skipped_images: reports images that could not be read.
        stragglers: reports ranks that are slow.
        tracker: writes metrics, charts and the terminal's table.
        traffic: counts what is sent between ranks.
        weight_exchange: publishes and reads weights between jobs.

    Attributes:
        comm: the ranks of the run.
        checkpoints, final_scoring: as above.
        progress: how far the training is.
        scores: the last evaluation's.
        training: as above.
    """

    def __init__(
        self,
        recipe: Recipe,
        environment: Environment,
        folder: RunFolder,
        training: Training,
        *,
        best_weights: BestWeights,
        callbacks: Callbacks,
        checkpointer: Checkpointer,
        checkpoints: CheckpointStore,
        collector: PeerCollector,
        early_stopping: EarlyStopping,
        final_scoring: FinalScoring,
        initial_scoring: InitialScoring,
        pictures: Pictures,
        saver: CheckpointSaver,
        scorer: Scorer,
        skipped_images: SkippedImages,
        stragglers: StragglerMonitor,
        tracker: Tracker,
        traffic: TrafficMeter,
        weight_exchange: WeightExchange,
    ) -> None:
        self.comm = environment.comm
        self.checkpoints = checkpoints
        self.final_scoring = final_scoring
        self.progress = Progress()
        self.scores: Scores = {}
        self.training = training
        self._recipe = recipe
        self._environment = environment
        self._folder = folder
        self._best_weights = best_weights
        self._callbacks = callbacks
        self._checkpointer = checkpointer
        self._collector = collector
        self._early_stopping = early_stopping
        self._initial_scoring = initial_scoring
        self._pictures = pictures
        self._saver = saver
        self._scorer = scorer
        self._skipped_images = skipped_images
        self._stragglers = stragglers
        self._tracker = tracker
        self._traffic = traffic
        self._weight_exchange = weight_exchange
        self._metrics_lines: list[str] = []

    def run(self) -> None:
        """Trains from where `progress` is to the end. Collective: all ranks must call it.

        Raises:
            StoppedError: SIGTERM, SIGUSR1 or SIGINT was received; a checkpoint has been written.
            NonFiniteLossError: a loss diverged; the last good checkpoint is kept.
        """
        progress, stop_poll = self.progress, self.comm.stop_poll()
        with StopSignals() as signals:
            self._checkpointer.frozen_digests()  # takes long the first time, for which no checkpoint is to wait
            self._weight_exchange.refresh()
            self._call_back("begin")
            if self._is_finished:
                self._tracker.print_line("nothing is left to train: the run is finished; --extend goes on with it under another name")
            while not self._is_finished:
                self.training.group.train()
                self._tracker.begin_epoch(progress.epoch, done=progress.window)
                for window in self._stragglers.timed(self._windows(), progress.update):
                    self._update(window)
                    if stop_poll(signals.received is not None):
                        self._stop(signals, stop_poll)
                if stop_poll.drain():
                    self._stop(signals, stop_poll)
                self._finish_epoch()
            self._saver.finish()
            if self._early_stopping.is_exhausted and progress.epoch < self._recipe.train.epochs:
                self._tracker.print_line(f"stopped after epoch {progress.epoch}: {self._early_stopping.reason}")
            self._weight_exchange.publish(progress.update)
            self.final_scoring.run(progress.update)
            write_summary(self._folder, progress, self.training.data.info, self._traffic, self.comm)
            self._call_back("end")

    def resume(self, files: Mapping[str, bytes], folder: RunFolder) -> None:
        """Restores the state that the files of a checkpoint hold, of the run in `folder`: this one, or the one that it extends.

        Raises:
            InputError: its updates are of another number of images, or the data or a frozen peer's weights have changed.
        """
        restored = self._checkpointer.restore(files, folder)
        self.progress, self.scores, self._metrics_lines = restored.progress, restored.scores, restored.lines
        if folder == self._folder:
            self._saver.mark_saved(self.progress)

    def extend(self, folder: RunFolder) -> None:
        """Makes the run one that can be resumed without the one in `folder`, whose state was restored; after `open_tracker`.

        Its best weights are copied, then the state is written as this run's first checkpoint. Collective: all ranks must call it.
        """
        self._early_stopping.extend()
        self._best_weights.copy_from(folder)
        self._save()
        self._saver.finish()

    def score_initial(self, *, resume: bool) -> None:
        """Scores the peers that begin with weights or are frozen, unless the run has done so before; writes nothing.

        Collective: all ranks must call it.

        Raises:
            RecipeError: a peer scores less than the recipe expects.
        """
        was_scored = self._initial_scoring.restore(self._metrics_lines, update=self.progress.update, resume=resume)
        if not was_scored:
            self._scorer.score_initial(update=self.progress.update)
            self._report_skipped_images("before the first update: ")
        self._scorer.check_expected()

    def gather_history(self) -> list[dict[str, Any]]:
        """Returns on all ranks the records of metrics.jsonl. Collective: all ranks must call it."""
        content = f"[{','.join(self._tracker.lines)}]".encode() if self.comm.is_main else None
        history: list[dict[str, Any]] = json.loads(self.comm.broadcast_bytes(content))
        return history

    def open_tracker(self) -> None:
        """Starts logging at the current step; the first thing that a trainer writes. Collective: all ranks must call it."""
        with self.comm.raise_together():
            extended_from = self._recipe.extended_from
            is_new = extended_from is not None and not self._saver.holds(self.progress)
            self._tracker.open(step=self.progress.update, lines=self._metrics_lines, extends=is_new)
            if self._scorer.initial and not self._metrics_lines and self.progress.update == 0:
                self._initial_scoring.save()
                self._tracker.log_initial(self._scorer.initial)
        summary = describe_run(self._recipe, self.training, self._collector, self.comm, self._environment.precision)
        self._tracker.print_line(f"{self._folder.path}: {summary}")
        self._tracker.print_table_head(self._scorer.initial)

    def give_up(self) -> None:
        """Ends a checkpoint that is being written, without its being finished."""
        self._saver.give_up()

    def close(self) -> None:
        """Waits for a checkpoint that is being written, and closes the tracker, the data loaders and the stores."""
        try:
            self._saver.close()
        finally:
            self._stragglers.close()
            self._tracker.close()
            self.training.close()

    @property
    def _is_finished(self) -> bool:
        return self.progress.epoch >= self._recipe.train.epochs or self._early_stopping.is_exhausted

    def _update(self, window: Window) -> None:
        """Runs an update and what is due after it."""
        progress, log_is_due = self.progress, self._log_is_due()
        self.training.train_step(window, progress.update, measure=log_is_due)
        progress.window += 1
        progress.update += 1
        self._traffic.count_update()
        self._weight_exchange.exchange_if_due(progress.update)
        self._tracker.advance()
        self._saver.reserve()
        if log_is_due:
            self._log()
        if self._saver.is_due(progress):
            self._save()
        self._call_back("update")

    def _finish_epoch(self) -> None:
        """Evaluates, writes the epoch's weights and metrics, and a checkpoint where one is due."""
        progress, epochs = self.progress, self._recipe.train.epochs
        for peer in self.training.group.trainable:
            peer.average_buffers()
        epoch = progress.epoch + 1
        scores, is_drawn = None, False
        if epoch % self._recipe.train.eval_every == 0 or epoch == epochs:
            is_drawn = self._pictures.are_due(is_last=epoch == epochs)
            self.scores = scores = self._scorer.evaluate(progress.update, details=is_drawn)
            self._early_stopping.update(scores)
        self._report_skipped_images(f"epoch {epoch}: ")
        with self._stragglers.during("writes the epoch's weights and metrics"):
            self._best_weights.finish_epoch(epoch, scores)
            metrics = self.training.meter.end_epoch()
            self._refresh_stores()
            with self.comm.raise_together():
                self._tracker.log_epoch(epoch, progress.update, metrics, scores)
                if is_drawn and self._scorer.details is not None:
                    self._pictures.draw(self._scorer.details, epoch=progress.epoch, step=progress.update)
        progress.epoch, progress.window = epoch, 0
        if self._saver.is_due_at_epoch(epoch) or self._is_finished:
            self._save()
        self._call_back("epoch")

    def _refresh_stores(self) -> None:
        """Lets stores take notice of what other ranks have computed: all of this epoch, and nothing of the next one."""
        if self._recipe.stores:
            self.comm.barrier()  # and `raise_together` behind it is another one
            for store in self.training.stores.values():
                store.refresh()

    def _call_back(self, event: str) -> None:
        self._callbacks(event, epoch=self.progress.epoch, update=self.progress.update, scores=self.scores)

    def _windows(self) -> Iterator[Window]:
        """Yields what is left of the epoch's windows."""
        with naming_rank(self.comm):
            yield from self.training.windows(self.progress.epoch, start=self.progress.window, waiting=self._waiting)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Context in which an update waits for its next micro-batch."""
        with self._stragglers.waiting(), naming_rank(self.comm):
            yield

    def _report_skipped_images(self, prefix: str) -> None:
        self._skipped_images.report(lambda line: self._tracker.print_line(f"note: {line}"), prefix=prefix)

    def _log_is_due(self) -> bool:
        """Whether the update that comes next is to be logged; an epoch's last one always is."""
        is_last = self.progress.window + 1 == self.training.updates_per_epoch
        return is_last or (self.progress.update + 1) % self._recipe.train.log_every == 0

    def _log(self) -> None:
        optimizers = self.training.optimizers
        rates = {f"learning_rate/{name}": optimizer.learning_rate for name, optimizer in optimizers.items()}
        for name, optimizer in optimizers.items():
            if optimizer.learning_rate_range is not None:
                lowest, highest = optimizer.learning_rate_range
                rates |= {f"learning_rate_lowest/{name}": lowest, f"learning_rate_highest/{name}": highest}
        norms = _to_floats(
            {f"grad_norm/{name}": norm for name, optimizer in optimizers.items() if (norm := optimizer.grad_norm) is not None}
        )
        update = self.progress.update
        values = self._collector.all_gather_dict(rates | norms) | self._traffic.flush()
        values |= self.training.pause_selector.flush() | self._stragglers.flush() | self._saver.flush_seconds()
        self._tracker.log_interval(update, self.training.meter.flush(), values)

    def _stop(self, signals: StopSignals, stop_poll: StopPoll) -> None:
        stop_poll.drain()
        self._save()
        self._saver.finish()
        received = self.comm.all_gather_json(signals.received.name if signals.received is not None else "")
        cause = next(filter(None, received))
        raise StoppedError(f"stopped by {cause} after step {self.progress.update}; the checkpoint is written, go on with --resume")

    def _save(self) -> None:
        """Starts to write a checkpoint unless this step has one. Collective: all ranks must call it.

        Raises:
            NonFiniteLossError: weights are not finite.
        """
        if self._saver.holds(self.progress):
            return
        if self.training.meter.pending:
            self._log()
        self._saver.save(self.progress, self.scores, self._tracker.lines)


def _to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns scalars of the device, brought from there together."""
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True)) if values else {}
