"""The terminal's table of epochs, and the lines before and after it."""

from __future__ import annotations

from collections.abc import Sequence

from mutual.engine.monitoring.scores import PAIRS, Scores
from mutual.engine.monitoring.train_metrics import TrainMetrics
from mutual.recipe import ENSEMBLE, Recipe

_HEADS = {"macro_top1": "macro"}
"""Of the table's columns, where a metric's name is too long."""


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
