"""report_comparison: the page of a comparison, with curves and links where its run folders are there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path, PurePath
from statistics import fmean

from mutual.engine.comparison import BEST_PEER, MEAN, ArmSummary, ComparisonFolder
from mutual.engine.report.pages import comparison_page, headline
from mutual.engine.report.pages.markup import address
from mutual.engine.report.pages.numbers import is_finite
from mutual.engine.storage import REPORT, RunFolder, is_report, write_report
from mutual.recipe import InputError

_METRICS = ("top1", "map", "knn_top1", "nll")
"""Of which curves are drawn."""


def report_comparison(folder: Path, output: Path) -> str:
    """Writes the report of the comparison in `folder` to `output`, and returns what it says in a line.

    Raises:
        InputError: its comparison.json is damaged, or something else than a report of ours is at `output`.
    """
    of_comparison = ComparisonFolder(folder)
    comparison = of_comparison.read()
    assert comparison is not None, "whoever calls this has seen comparison.json"
    found = {arm.name: _run_folders(arm, of_comparison) for arm in comparison.arms}
    curves = {arm.name: of_arm for arm in comparison.arms if (of_arm := _arm_curves(arm, found[arm.name]))}
    links = {name: _links(runs, output) for name, runs in found.items()}
    write_report(output, comparison_page(comparison, curves=curves, links=links))
    return headline(comparison)


def _run_folders(arm: ArmSummary, folder: ComparisonFolder) -> dict[int, RunFolder]:
    """Returns by seed the run folders that are there."""
    return {seed: RunFolder(path) for seed, path in folder.find_runs(arm).items() if path.is_dir()}


def _arm_curves(arm: ArmSummary, folders: Mapping[int, RunFolder]) -> dict[str, list[tuple[float, list[float]]]]:
    """Returns by metric for each epoch the values of the runs that have one; what is damaged is left out."""
    curves: dict[str, dict[int, list[float]]] = {}
    for folder in folders.values():
        with suppress(InputError):
            for metric, epoch, value in _scores(folder, _members(arm, folder)):
                curves.setdefault(metric, {}).setdefault(epoch, []).append(value)
    return {metric: sorted(by_epoch.items()) for metric, by_epoch in curves.items()}


def _scores(folder: RunFolder, members: Sequence[str]) -> Iterator[tuple[str, int, float]]:
    """Yields metric, epoch and mean of the members, where all of them have a score."""
    for row, metric in product(folder.history(), _METRICS):
        values = [row.get("eval", {}).get(member, {}).get(metric) for member in members]
        if all(map(is_finite, values)):
            yield metric, row["epoch"], fmean(values)


def _members(arm: ArmSummary, folder: RunFolder) -> tuple[str, ...]:
    """Returns the peers whose mean counts."""
    if arm.member == MEAN:
        return tuple(folder.recipe().trainable)
    return (folder.best_peer() if arm.member == BEST_PEER else arm.member,)


def _links(folders: Mapping[int, RunFolder], output: Path) -> dict[int, str]:
    """Returns by seed the address of the run's report, relative to `output`."""
    reports = {seed: folder.path / REPORT for seed, folder in folders.items()}
    here = output.absolute().parent
    return {seed: address(PurePath(os.path.relpath(report.absolute(), here))) for seed, report in reports.items() if is_report(report)}
