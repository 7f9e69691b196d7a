"""What happened over the epochs, of every member: scores, losses, churn, speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mutual.engine.report.findings import Findings
from mutual.engine.report.pages.charts import Series, charts, legend, line_chart
from mutual.engine.report.pages.markup import Markup
from mutual.engine.report.pages.numbers import metric_label

Record = Mapping[str, Any]
"""Of metrics.jsonl, an epoch each."""


def curves(findings: Findings, styles: Mapping[str, str]) -> list[object]:
    """Returns the charts of scores and losses over the epochs, and the legend that all charts of the page share."""
    trained = [member.name for member in findings.members if not member.is_frozen]
    drawn = []
    for metric in ("top1", "map", "knn_top1", "nll", "ece"):
        series = [Series(each, styles[each], _points(findings, _score(each, metric))) for each in styles]
        drawn.append(line_chart(f"Validation {metric_label(metric)}", series, metric=metric))
    for key, title, metric in (("loss", "Training loss", "loss"), ("top1", "Training top-1", "top1")):
        series = [Series(each, styles[each], _points(findings, _train(key, each))) for each in trained]
        drawn.append(line_chart(title, series, metric=metric))
    objectives = list(dict.fromkeys(key for row in findings.history for key in row.get("train", {}).get("objectives") or {}))
    for key in objectives[:8]:
        series = [Series(key, "of-none", _points(findings, _train("objectives", key)))]
        drawn.append(line_chart(f"Objective {key}", series, metric="loss"))
    if not any(drawn):
        return []
    return [legend(list(styles.items())), charts(drawn)]


def speed(findings: Findings) -> Markup | None:
    """Returns the chart of images per second."""
    points = _points(findings, lambda row: row.get("train", {}).get("images_per_second"))
    return line_chart("Images per second", [Series("images per second", "of-none", points)], metric="speed")


def churn(findings: Findings, styles: Mapping[str, str]) -> Markup | None:
    """Returns the chart of predictions that changed since the evaluation before."""
    series = [Series(each.name, styles[each.name], sorted(each.churn.items())) for each in findings.members if each.churn]
    drawn = line_chart("Changed predictions", series, metric="churn")
    return None if drawn is None else charts([drawn])


def _points(findings: Findings, value: Callable[[Record], float | None]) -> list[tuple[float, float | None]]:
    """Returns by epoch a value of its record; epochs without one are left out, unless it was not finite."""
    return [(row["epoch"], found) for row in findings.history if (found := value(row)) is not None]


def _score(member: str, metric: str) -> Callable[[Record], float | None]:
    return lambda row: row.get("eval", {}).get(member, {}).get(metric)


def _train(key: str, member: str) -> Callable[[Record], float | None]:
    return lambda row: (row.get("train", {}).get(key) or {}).get(member)
