"""report_run: a run is analysed and its page written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mutual.engine.report.analysis import analyse_run
from mutual.engine.report.pages import run_page
from mutual.engine.report.pages.numbers import metric_label, metric_text
from mutual.engine.storage import RunFolder, write_report


def report_run(
    folder: RunFolder,
    output: Path,
    *,
    split: str = "val",
    factories: Sequence[str] = (),
    datasets: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> str:
    """Writes the report of a run to `output`, and returns what it says in a line; for the arguments see `analyse_run`.

    Raises:
        InputError: the run cannot be analysed, or something else than a report of ours is at `output`.
    """
    findings = analyse_run(folder, split=split, factories=factories, datasets=datasets, overrides=overrides)
    write_report(output, run_page(findings))
    best = next(member for member in findings.members if member.name == findings.best_peer)
    scores = [
        f"{metric_label(metric)} {metric_text(metric, best.scores[metric])}"
        for metric in ("top1", "map", "knn_top1", "nll")
        if metric in best.scores
    ]
    scaling = [] if best.temperature is None else [f"temperature {best.temperature:.4g}"]
    line = ", ".join([f"ship {findings.best_peer!r}", *scores[:2], *scaling])
    return f"{line} ({findings.num_images:,} images, {findings.split})"
