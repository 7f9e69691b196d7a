"""Tracker: what a run shows of itself: `metrics.jsonl` for scripts, charts, and a bar and a table for the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mutual.engine.monitoring.charts import Charts
from mutual.engine.monitoring.scores import Scores, ranking_key
from mutual.engine.monitoring.series import Series, best_values, score_values, train_values, values_on_test
from mutual.engine.monitoring.table import initial_lines, table_head, table_line, test_line
from mutual.engine.monitoring.train_metrics import TrainMetrics
from mutual.engine.storage import METRICS, RunFolder, json_text, write_file
from mutual.recipe import ENSEMBLE, Recipe

if TYPE_CHECKING:  # who evaluates writes no charts
    from accelerate import Accelerator
    from numpy.typing import NDArray

COPIES_KL = 1e-6
"""Peers whose mean pairwise KL divergence (nats) is under this have nothing left to teach each other."""


class Tracker:
    """Writes a run's metrics, charts and table on the main process; on other ranks it does nothing.

    Args:
        recipe: what is trained.
        accelerator: starts the trackers.
        folder: the run folder.
        updates_per_epoch: length of the progress bar.

    Attributes:
        lines: those of metrics.jsonl so far, on the main process.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, folder: Path, *, updates_per_epoch: int) -> None:
        self.lines: list[str] = []
        self._recipe = recipe
        self._path = folder / METRICS
        self._updates_per_epoch = updates_per_epoch
        self._is_main = accelerator.is_main_process
        self._charts = Charts(recipe, accelerator, RunFolder(folder))
        self._best = _Best(recipe)
        self._interval_start = time.perf_counter()
        self._epoch_images = 0.0
        self._epoch_seconds = 0.0
        self._bar: tqdm[Any] | None = None

    def open(self, *, step: int, lines: Sequence[str], extends: bool = False) -> None:
        """Starts logging after `step` updates and these `lines` of metrics.jsonl; what was logged beyond them is discarded.

        If the lines are of another run, which this one `extends`, the charts get their scores, too.
        """
        self.lines = list(lines)
        if not self._is_main:
            return
        write_file(self._path, "".join(self.lines).encode())
        self._charts.open(step=step, is_new=step == 0 or extends)
        for record in map(json.loads, self.lines):
            scores = _with_nan(record.get("eval", {}))
            self._best.update(record["epoch"], scores)
            if extends:
                self._log_scores(scores, step=record["step"])

    def print_table_head(self, initial_scores: Scores) -> None:
        """Prints the heading of the table of epochs, and below it the scores of the peers that were scored before the first update."""
        for line in (*table_head(self._recipe), *initial_lines(self._recipe, initial_scores)):
            self.print_line(line)

    def print_line(self, line: str) -> None:
        """Prints a line on the terminal, above the progress bar."""
        if self._is_main:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def begin_epoch(self, epoch: int, *, done: int) -> None:
        """Opens the progress bar of `epoch` (0 is the first), of which `done` updates are done."""
        self._interval_start = time.perf_counter()
        self._bar = tqdm(
            total=self._updates_per_epoch,
            initial=done,
            desc=f"epoch {epoch + 1}/{self._recipe.train.epochs}",
            unit="step",
            leave=False,
            disable=not (self._is_main and self._recipe.train.progress and sys.stderr.isatty()),
        )

    def advance(self) -> None:
        """Moves the progress bar by one update."""
        if self._bar is not None:
            self._bar.update()

    def log_interval(self, step: int, metrics: TrainMetrics, others: Mapping[str, float]) -> None:
        """Logs the training metrics of the updates since the last call, and `others`, after `step` updates."""
        now = time.perf_counter()
        seconds = now - self._interval_start
        self._interval_start = now
        self._epoch_seconds += seconds
        self._epoch_images += metrics.images
        if self._is_main:
            self._charts.log(train_values(metrics, {"speed/images_per_second": metrics.images / seconds, **others}), step=step)

    def log_initial(self, scores: Scores) -> None:
        """Logs the scores before the first update in the charts, and in metrics.jsonl as epoch 0."""
        if self._is_main:
            self._log_scores(scores, step=0)
            self._write_line({"epoch": 0, "step": 0, "eval": scores})

    def log_epoch(self, epoch: int, step: int, train: TrainMetrics, scores: Scores | None) -> None:
        """Logs a finished epoch (1 is the first) in the charts, in metrics.jsonl and as a line of the table."""
        if self._bar is not None:
            self._bar.close()
        speed = self._epoch_images / self._epoch_seconds if self._epoch_seconds else 0.0
        self._epoch_images = self._epoch_seconds = 0.0
        if not self._is_main:
            return
        record: dict[str, Any] = {
            "epoch": epoch,
            "step": step,
            "train": {"images_per_second": round(speed, 1), "loss": train.loss, "top1": train.top1, "objectives": train.objectives},
        }
        if scores is not None:
            record["eval"] = scores
            self._best.update(epoch, scores)
            self._log_scores(scores, step=step)
        self._write_line(record)
        self.print_line(table_line(self._recipe, epoch, speed, train, scores))
        evaluations = [json.loads(line).get("eval") or {} for line in self.lines]
        divergences = [kl for evaluation in evaluations if (kl := evaluation.get("pairs", {}).get("kl")) is not None]
        if scores is not None and len(divergences) > 1 and max(divergences[-2:]) < COPIES_KL:  # once may be a collapse that passes
            self.print_line(
                f"note: the peers have become copies of each other (mean pairwise KL {divergences[-1]:.1e}): nothing is left to teach"
            )

    def log_pictures(self, pictures: Mapping[Series, NDArray[Any]], *, step: int) -> None:
        """Logs pictures `[H, W, 3]` of uint8 in the charts, after `step` updates."""
        if self._is_main:
            self._charts.log_pictures(pictures, step=step)

    def log_test(self, scores: Scores, *, step: int) -> None:
        """Logs the scores on the test images in the charts; no line of metrics.jsonl, which are the epochs'."""
        if self._is_main:
            self._charts.log(values_on_test(scores), step=step)

    def print_test(self, scores: Scores, num_images: int) -> None:
        """Prints the scores on the test images as a line."""
        self.print_line(test_line(self._recipe, scores, num_images))

    def close(self) -> None:
        """Closes the progress bar and the charts, where they have been opened."""
        if self._bar is not None:
            self._bar.close()
        self._charts.close()

    def _log_scores(self, scores: Scores, *, step: int) -> None:
        self._charts.log(score_values(scores) | best_values(self._best.peer, self._best.ensemble), step=step)

    def _write_line(self, record: dict[str, Any]) -> None:
        self.lines.append(json_text(record) + "\n")
        write_file(self._path, "".join(self.lines).encode())


class _Best:
    """The best scores so far: of a trained peer, and of the ensemble.

    Attributes:
        peer: the scores of the peer and the epoch that are best by the recipe's metric; empty before the first evaluation.
        ensemble: those of the ensemble's best epoch.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.peer: Mapping[str, float] = {}
        self.ensemble: Mapping[str, float] = {}
        self._peers = recipe.trainable
        metric = recipe.resolved().train.best_metric
        assert metric is not None, "it is resolved"
        self._key = partial(ranking_key, metric=metric)

    def update(self, epoch: int, scores: Scores) -> None:
        """Takes notice of an evaluation; of one before the first update (epoch 0) no weights are kept."""
        if epoch == 0:
            return
        self.peer = max([self.peer, *(scores[name] for name in self._peers if name in scores)], key=self._key)
        self.ensemble = max([self.ensemble, scores.get(ENSEMBLE, {})], key=self._key)


def _with_nan(scores: Mapping[str, Mapping[str, float | None]]) -> Scores:
    """Returns scores as metrics.jsonl has them, where null is a number that is not finite."""
    return {member: {key: math.nan if value is None else value for key, value in row.items()} for member, row in scores.items()}
