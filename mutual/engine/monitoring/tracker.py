"""Tracking: TensorBoard through Accelerate's tracker, `metrics.jsonl` for scripts, a bar and a table for the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mutual.engine.monitoring.scores import PAIRS, Scores
from mutual.engine.monitoring.train_metrics import TrainMetrics
from mutual.engine.storage import METRICS, json_text, write_file
from mutual.recipe import ENSEMBLE, Recipe, dump_recipe

if TYPE_CHECKING:  # who evaluates writes no charts
    from accelerate import Accelerator
    from torch.utils.tensorboard import SummaryWriter

COPIES_KL = 1e-6
"""Peers whose mean pairwise KL divergence (nats) is under this have nothing left to teach each other."""
_CHARTS = ("train_loss", "train_top1", "eval_top1", "eval_macro_top1", "eval_map", "eval_nll", "eval_ece", "learning_rate", "grad_norm")

_HEADS = {"macro_top1": "macro"}
"""Of the table's columns, where a metric's name is too long."""


class Tracker:
    """Writes a run's metrics, charts and table on the main process; on other ranks it does nothing.

    Args:
        recipe: what is trained.
        accelerator: has the TensorBoard tracker.
        folder: the run folder.
        updates_per_epoch: length of the progress bar.

    Attributes:
        lines: those of metrics.jsonl so far, on the main process.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, folder: Path, *, updates_per_epoch: int) -> None:
        self.lines: list[str] = []
        self._recipe = recipe
        self._accelerator = accelerator
        self._path = folder / METRICS
        self._updates_per_epoch = updates_per_epoch
        self._is_main = accelerator.is_main_process
        self._interval_start = time.perf_counter()
        self._epoch_images = 0.0
        self._epoch_seconds = 0.0
        self._bar: tqdm[Any] | None = None
        self._is_open = False

    def open(self, *, step: int, lines: Sequence[str], extends: bool = False) -> None:
        """Starts logging after `step` updates and these `lines` of metrics.jsonl; what was logged beyond them is discarded.

        If the lines are of another run, which this one `extends`, TensorBoard gets their scores, too.
        """
        self.lines = list(lines)
        if not self._is_main:
            return
        write_file(self._path, "".join(self.lines).encode())
        options = {"tensorboard": {"purge_step": step + 1 if step else None}}
        self._accelerator.init_trackers(self._recipe.name, init_kwargs=options)
        self._is_open = True
        if step == 0 or extends:
            self._log_hparams(self._accelerator.get_tracker("tensorboard", unwrap=True))
        for record in map(json.loads, self.lines if extends else []):
            self._log_scores(_with_nan(record.get("eval", {})), step=record["step"])

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
        values = {f"train_loss/{peer}": value for peer, value in metrics.loss.items()}
        values |= {f"train_top1/{peer}": value for peer, value in metrics.top1.items()}
        values |= {f"objective/{name}": value for name, value in metrics.objectives.items()}
        values |= {"speed/images_per_second": metrics.images / seconds, **others}
        if self._is_main:
            self._accelerator.log(values, step=step)

    def log_initial(self, scores: Scores) -> None:
        """Logs the scores before the first update in TensorBoard, and in metrics.jsonl as epoch 0."""
        if self._is_main:
            self._log_scores(scores, step=0)
            self._write_line({"epoch": 0, "step": 0, "eval": scores})

    def log_epoch(self, epoch: int, step: int, train: TrainMetrics, scores: Scores | None) -> None:
        """Logs a finished epoch (1 is the first) in TensorBoard, in metrics.jsonl and as a line of the table."""
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
            self._log_scores(scores, step=step)
        self._write_line(record)
        self.print_line(table_line(self._recipe, epoch, speed, train, scores))
        evaluations = [json.loads(line).get("eval") or {} for line in self.lines]
        divergences = [kl for evaluation in evaluations if (kl := evaluation.get("pairs", {}).get("kl")) is not None]
        if scores is not None and len(divergences) > 1 and max(divergences[-2:]) < COPIES_KL:  # once may be a collapse that passes
            self.print_line(
                f"note: the peers have become copies of each other (mean pairwise KL {divergences[-1]:.1e}): nothing is left to teach"
            )

    def log_test(self, scores: Scores, *, step: int) -> None:
        """Logs the scores on the test images in TensorBoard; no line of metrics.jsonl, which are the epochs'."""
        if self._is_main:
            self._log_scores(scores, step=step, kind="test")

    def print_test(self, scores: Scores, num_images: int) -> None:
        """Prints the scores on the test images as a line."""
        self.print_line(test_line(self._recipe, scores, num_images))

    def close(self) -> None:
        """Closes the progress bar and TensorBoard's file, where they have been opened."""
        if self._bar is not None:
            self._bar.close()
        if self._is_open:
            self._accelerator.get_tracker("tensorboard").finish()

    def _log_scores(self, scores: Scores, *, step: int, kind: str = "eval") -> None:
        values = {f"{kind}_{metric}/{member}": value for member, row in scores.items() for metric, value in row.items()}
        self._accelerator.log(values, step=step)

    def _write_line(self, record: dict[str, Any]) -> None:
        self.lines.append(json_text(record) + "\n")
        write_file(self._path, "".join(self.lines).encode())

    def _log_hparams(self, writer: SummaryWriter) -> None:
        from torch.utils.tensorboard.summary import hparams

        if self._recipe.extended_from is not None:
            writer.add_text("extended_from", self._recipe.extended_from.run)
        writer.add_text("recipe", "```yaml\n" + dump_recipe(self._recipe) + "\n```")
        flat = dict(_flatten(self._recipe.model_dump(mode="json")))
        best = {f"eval_{_columns(self._recipe)[0]}/{name}": 0.0 for name in self._recipe.trainable}
        for summary in hparams(flat, best):
            writer.file_writer.add_summary(summary)
        members = [*self._recipe.peers, ENSEMBLE]
        charts = {name: ["Multiline", [f"{name}/{member}" for member in members]] for name in _CHARTS}
        writer.add_custom_scalars({"peers": charts})


def _with_nan(scores: Mapping[str, Mapping[str, float | None]]) -> Scores:
    """Returns scores as metrics.jsonl has them, where null is a number that is not finite."""
    return {member: {key: math.nan if value is None else value for key, value in row.items()} for member, row in scores.items()}


def table_head(recipe: Recipe) -> list[str]:
    """Returns the two heading lines of the terminal's table of epochs."""
    columns = _columns(recipe)
    unit = " ".join(f"{_HEADS.get(name, name):>7}" for name in ("loss", *columns))
    heads, units = [f"{name:^{len(unit)}}" for name in recipe.trainable], [unit] * len(recipe.trainable)
    if len(recipe.trainable) > 1:
        heads.append(f"{ENSEMBLE:^15}")
        units.append(" ".join(f"{_HEADS.get(name, name):>7}" for name in columns[:2]))
    return [f"  epoch | {' | '.join(heads)} | images/s", f"        | {' | '.join(units)} |"]


def initial_lines(recipe: Recipe, scores: Scores) -> list[str]:
    """Returns a line of the terminal's table for each peer that was scored before the first update."""
    return [
        f"{'before':>7} | {name}{' (frozen)' if recipe.peers[name].frozen else ''}: "
        + ", ".join(f"{metric} {_cell(metric, value).strip()}" for metric, value in row.items() if metric in _columns(recipe))
        + (" by its nearest training images" if name in recipe.headless else "")
        for name, row in scores.items()
    ]


def table_line(recipe: Recipe, epoch: int, speed: float, train: TrainMetrics, scores: Scores | None) -> str:
    """Returns the terminal's line of an epoch: training loss, then evaluation, of every trainable peer."""
    columns = _columns(recipe)
    cells = [f"{_short(train.loss[name])} {_cells((scores or {}).get(name), columns)}" for name in recipe.trainable]
    if len(recipe.trainable) > 1:
        cells.append(_cells((scores or {}).get(ENSEMBLE), columns[:2]))
    return f"{epoch:>3}/{recipe.train.epochs:<3} | {' | '.join(cells)} | {speed:8.0f}"


def test_line(recipe: Recipe, scores: Scores, num_images: int) -> str:
    """Returns the terminal's line of the scores on the test images."""
    members = [
        f"{member}{' (frozen)' if member in recipe.peers and recipe.peers[member].frozen else ''}: "
        + ", ".join(f"{metric} {_cell(metric, row[metric]).strip()}" for metric in _columns(recipe) if metric in row)
        for member, row in scores.items()
        if member != PAIRS
    ]
    return f"test, {num_images:,} images, by the best weights: {'; '.join(members)}"


def _columns(recipe: Recipe) -> tuple[str, ...]:
    if recipe.data.multi_label:
        return "map", "nll"
    return "macro_top1" if recipe.train.best_metric == "macro_top1" else "top1", "nll", "ece"


def _cells(row: dict[str, float] | None, columns: Sequence[str]) -> str:
    if row is None:
        return " " * (8 * len(columns) - 1)
    return " ".join(_cell(name, row[name]) for name in columns)


def _cell(metric: str, value: float) -> str:
    return f"{value:7.2%}" if metric in ("top1", "macro_top1", "map") else _short(value)


def _short(value: float) -> str:
    return f"{value:7.4f}" if abs(value) < 10 else f"{value:7.6g}"


def _flatten(value: Any, path: str = "") -> Iterable[tuple[str, str | int | float | bool]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{path}.{key}" if path else key)
    elif isinstance(value, (str, int, float, bool)):
        yield path, value
    elif value is not None:
        yield path, json.dumps(value)
