"""render: a comparison as text, markdown, CSV, JSON or LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any, Literal

from mutual.engine.comparison.control_names import INDEPENDENT, LONGER
from mutual.engine.comparison.formats import (
    Column,
    Table,
    latex_table,
    markdown_code,
    markdown_table,
    markdown_text,
    text_table,
    wrapped,
)
from mutual.engine.comparison.metrics import format_metric, unit
from mutual.engine.comparison.notes import format_seeds
from mutual.engine.comparison.result import ArmSummary, Comparison, Difference
from mutual.engine.storage import json_text
from mutual.recipe import SPLIT_NAMES, printable

Format = Literal["text", "markdown", "csv", "json", "latex"]
_UNKNOWN = "-"


def render(comparison: Comparison, format: Format) -> str:
    """Returns the comparison in a format: tables for people (text, markdown, latex), or all that it says (json, csv).

    CSV is one table in long form, by `kind` a row for each arm, metric and seed (`run`), for each arm and metric (`arm`: mean, std), and
    for each difference (`difference`). CSV and JSON have accuracies as fractions, the others in percent.
    """
    return _FORMATS[format](comparison)


def verdict_text(comparison: Comparison, row: Difference) -> str:
    """Returns the verdict; beside `better` than the baseline what keeps it from being a gain of the method."""
    if row.verdict != "better" or row.baseline != comparison.baseline:
        return row.verdict
    kinds = {arm.name: arm.control for arm in comparison.arms if arm.name != comparison.baseline}
    against = {
        kinds.get(other.baseline): other.verdict for other in comparison.differences if (other.arm, other.metric) == (row.arm, row.metric)
    }
    for verdict, over in (("worse", "than"), ("not shown", "over")):
        places = {INDEPENDENT: f"{over} independent peers", LONGER: "at equal compute"}
        found = [place for kind, place in places.items() if against.get(kind) == verdict]
        if found:
            return f"better, but {verdict} {' and '.join(found)}"
    return row.verdict


def headline(comparison: Comparison) -> str:
    """Returns in a line what was compared, and on which images."""
    images = f"the {comparison.epoch} epoch on {SPLIT_NAMES[comparison.split]} images"
    seeds = f"{'seed' if len(comparison.seeds) == 1 else 'seeds'} {format_seeds(comparison.seeds)}"
    optimistic = ", by which it was chosen: optimistic" if comparison.is_optimistic else ""
    return f"{comparison.name}: {len(comparison.arms)} arms, {seeds}, scores of {images}{optimistic}"


def remarks(comparison: Comparison) -> list[str]:
    """Returns what stands below the tables: the notes, what the arms are, and what their FLOPs leave out."""
    about = [f"{arm.name}: {arm.note}" for arm in comparison.arms if arm.note]
    flops = [f"FLOPs of {arm.name}: {arm.flops_note}" for arm in comparison.arms if arm.flops_note and _has_flops(comparison)]
    return [*comparison.notes, *about, *flops]


def _has_flops(comparison: Comparison) -> bool:
    return bool(_baseline(comparison).flops) and any(arm.flops for arm in comparison.arms if arm.name != comparison.baseline)


def _baseline(comparison: Comparison) -> ArmSummary:
    return next(arm for arm in comparison.arms if arm.name == comparison.baseline)


def _tables(comparison: Comparison) -> list[Table]:
    """Returns the tables that people read: the arms, their differences from the baseline, and those from their controls."""
    tables = [_arm_table(comparison)]
    rows = [row for row in comparison.differences if row.baseline == comparison.baseline]
    if rows:
        tables.append(_difference_table(comparison, f"difference from {comparison.baseline}", rows, has_holm=True))
    rows = [row for row in comparison.differences if row.baseline != comparison.baseline]
    if rows:
        tables.append(_difference_table(comparison, "difference of methods from their controls", rows, has_holm=False))
    return tables


def _arm_table(comparison: Comparison) -> Table:
    metrics = list(comparison.arms[0].metrics)
    has_members = len({arm.member for arm in comparison.arms}) > 1
    baseline_flops = _baseline(comparison).flops if _has_flops(comparison) else None
    columns = [
        Column("arm"),
        *([Column("scores of")] if has_members else []),
        Column("n", is_number=True),
        Column("epochs", is_number=True),
    ]
    columns += [Column("FLOPs", is_number=True)] if baseline_flops else []
    columns += [Column(" ".join(part for part in (metric, unit(metric)) if part), is_number=True) for metric in metrics]
    rows = []
    for arm in comparison.arms:
        cells = [arm.name, *([arm.member] if has_members else []), str(len(arm.runs)), str(arm.epochs)]
        if baseline_flops:
            cells.append(f"{arm.flops / baseline_flops:.2f}x" if arm.flops else _UNKNOWN)
        rows.append(cells + [_mean_and_std(arm, metric) for metric in metrics])
    return Table("mean ± standard deviation over the seeds", columns, rows)


def _mean_and_std(arm: ArmSummary, metric: str) -> str:
    found = arm.metrics[metric]
    if found.mean is None:
        return _UNKNOWN
    return format_metric(metric, found.mean) + ("" if found.std is None else f" ± {format_metric(metric, found.std)}")


def _difference_table(comparison: Comparison, title: str, rows: list[Difference], *, has_holm: bool) -> Table:
    columns = [Column("arm"), *([] if has_holm else [Column("control")]), Column("metric")]
    columns += [Column(head, is_number=True) for head in ("difference [95 %]", "std", "n", "p", *(["Holm"] if has_holm else []))]
    columns.append(Column("verdict"))
    caption = f"{title}: mean over pairs of runs with the same seed [95 % interval by Student's t], standard deviation, "
    caption += "p of the exact sign-flip test"
    caption += ", and after Holm's correction over the arms that are no control" if has_holm else ", a test by itself"
    cells = []
    for row in rows:
        metric = f"{row.metric} {unit(row.metric, difference=True)}".strip()
        names = [row.arm] if has_holm else [row.arm, row.baseline]
        p_values = [row.p_sign_flip, row.p_holm] if has_holm else [row.p_sign_flip]
        std = _UNKNOWN if row.std is None else format_metric(row.metric, row.std)
        numbers = [_with_interval(row), std, str(row.num_pairs), *(_format_p(p) for p in p_values)]
        cells.append([*names, metric, *numbers, verdict_text(comparison, row)])
    return Table(caption, columns, cells)


def _format_p(p: float | None) -> str:
    return _UNKNOWN if p is None else f"{p:.4f}" if p >= 1e-3 else f"{p:.1e}"


def _with_interval(row: Difference) -> str:
    if row.mean is None:
        return _UNKNOWN
    mean, *ends = (format_metric(row.metric, value, signed=True) for value in (row.mean, *(row.interval or ())))
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def _text(comparison: Comparison) -> str:
    parts = [wrapped(headline(comparison)), *map(text_table, _tables(comparison))]
    notes = [wrapped(remark, bullet="- ") for remark in remarks(comparison)]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _markdown(comparison: Comparison) -> str:
    parts = [markdown_text(headline(comparison)), *map(markdown_table, _tables(comparison))]
    notes = [f"- {markdown_text(remark)}" for remark in remarks(comparison)]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else []), f"Made by {markdown_code(comparison.command)}"])


def _latex(comparison: Comparison) -> str:
    heads = ["needs \\usepackage{booktabs}", f"made by: {printable(comparison.command)}", printable(headline(comparison))]
    heads += [f"- {printable(remark)}" for remark in remarks(comparison)]
    return "\n\n".join(["\n".join(f"% {line}" for line in heads), *map(latex_table, _tables(comparison))])


def _json(comparison: Comparison) -> str:
    return json_text(comparison.model_dump(mode="json"), indent=2)


def _csv(comparison: Comparison) -> str:
    rows = list(_csv_rows(comparison))
    columns = ["kind", "arm", "baseline", "control", "control_of", "member", "metric", "seed", "value", "std", "n", "low", "high"]
    columns += ["p_sign_flip", "p_holm", "verdict", "beats_independent", "beats_equal_compute", "epochs", "flops", "images", "run"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # a name may hold a carriage return
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _csv_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for arm in comparison.arms:
        about: dict[str, Any] = {"arm": arm.name, "control": arm.control, "control_of": ", ".join(arm.control_of), "member": arm.member}
        about |= {"epochs": arm.epochs, "flops": arm.flops, "images": arm.images}
        for metric, found in arm.metrics.items():
            for seed, value in found.values.items():
                yield {"kind": "run", **about, "metric": metric, "seed": seed, "value": value, "run": arm.runs[seed]}
            yield {"kind": "arm", **about, "metric": metric, "value": found.mean, "std": found.std, "n": len(found.values)}
    equal_compute = {(row.arm, row.metric): row for row in comparison.equal_compute}
    for row in comparison.differences:
        low, high = row.interval or (None, None)
        beats = equal_compute.get((row.arm, row.metric)) if row.baseline == comparison.baseline else None
        yield {
            "kind": "difference",
            **row.model_dump(include={"arm", "baseline", "metric", "std", "p_sign_flip", "p_holm", "verdict"}),
            "value": row.mean,
            "n": row.num_pairs,
            "low": low,
            "high": high,
            **(beats.model_dump(include={"beats_independent", "beats_equal_compute"}) if beats else {}),
        }


_FORMATS: dict[str, Callable[[Comparison], str]] = {"text": _text, "markdown": _markdown, "csv": _csv, "json": _json, "latex": _latex}
