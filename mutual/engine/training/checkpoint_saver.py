"""CheckpointSaver: when a training writes a checkpoint, and how much of it the training waits for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from mutual.engine.monitoring import Scores, StragglerMonitor
from mutual.engine.storage import BackgroundWriter, CheckpointStore, Content
from mutual.engine.training.checkpointer import Checkpointer, Progress
from mutual.group import Communicator
from mutual.recipe import Recipe


class CheckpointSaver:
    """Writes the checkpoints of a run behind the training.

    Args:
        recipe: says when they are due.
        checkpointer: turns the state of the training into files.
        checkpoints: holds these files.
        comm: the ranks of the run.
        stragglers: reports ranks that are slow.
        updates_per_epoch: number of windows of an epoch.
    """

    def __init__(
        self,
        recipe: Recipe,
        checkpointer: Checkpointer,
        checkpoints: CheckpointStore,
        comm: Communicator,
        stragglers: StragglerMonitor,
        *,
        updates_per_epoch: int,
    ) -> None:
        self._recipe = recipe
        self._checkpointer = checkpointer
        self._checkpoints = checkpoints
        self._comm = comm
        self._stragglers = stragglers
        self._updates_per_epoch = updates_per_epoch
        self._writer = BackgroundWriter()
        self._saved_progress: Progress | None = None
        self._seconds = 0.0
        self._has_reserved = False

    def reserve(self) -> None:
        """Starts to allocate memory for the copies after the first update, when what optimizers keep is known."""
        if self._comm.is_main and not self._has_reserved:
            self._writer.start(self._checkpointer.reservation())
            self._has_reserved = True

    def is_due(self, progress: Progress) -> bool:
        """Returns whether a checkpoint is due after an update."""
        every = self._recipe.checkpoint.every_steps
        if every is None or progress.update % every:
            return False
        # that of the epoch's end is of the same step
        return progress.window < self._updates_per_epoch or not self.is_due_at_epoch(progress.epoch + 1)

    def is_due_at_epoch(self, epoch: int) -> bool:
        """Returns whether a checkpoint is due at the end of `epoch` (1 is the first)."""
        every = self._recipe.checkpoint.every_epochs
        return (every is not None and epoch % every == 0) or epoch == self._recipe.train.epochs

    def holds(self, progress: Progress) -> bool:
        """Returns whether the last checkpoint is of this progress."""
        return self._saved_progress == progress

    def mark_saved(self, progress: Progress) -> None:
        """Notes that a checkpoint of this progress is on the disk."""
        self._saved_progress = replace(progress)

    def save(self, progress: Progress, scores: Scores, lines: Sequence[str]) -> None:
        """Starts to write a checkpoint; raises where weights are not finite. Collective: all ranks must call it.

        The training waits until the one before is written, and its own state is copied.
        """
        start_time = time.perf_counter()
        self._checkpointer.check_weights(progress.update)
        self.finish()
        files = self._checkpointer.files(progress, scores, lines)
        if self._comm.is_main:
            self._writer.start(partial(self._write, progress.update, files))
            self._has_reserved = True
        self.mark_saved(progress)
        self._seconds += time.perf_counter() - start_time

    def finish(self) -> None:
        """Waits for the checkpoint that is being written. Collective: all ranks must call it.

        Raises:
            OSError: the main process could not write it; on all ranks alike.
        """
        with self._comm.raise_together(), self._stragglers.during("writes a checkpoint"):
            self._writer.wait()

    def flush_seconds(self) -> dict[str, float]:
        """Returns by its tag how long the training has waited for checkpoints since the last call; nothing where it has not."""
        seconds, self._seconds = self._seconds, 0.0
        return {"speed/checkpoint_seconds": seconds} if seconds else {}

    def give_up(self) -> None:
        """Ends a checkpoint that is being written, without its being finished."""
        self._writer.cancel()

    def close(self) -> None:
        """Waits for a checkpoint that is being written."""
        self._writer.close()

    def _write(self, step: int, files: Mapping[str, Content]) -> None:
        """Runs in the writer's thread, which communicates with no other rank."""
        self._checkpointer.wait_for_copies()
        self._checkpoints.save(step, files, check=self._writer.check)
