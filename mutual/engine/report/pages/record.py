"""What a run took and what it was: costs, recipe and what differs from its parent's, environment."""

from __future__ import annotations

from mutual.engine.report.findings import Findings
from mutual.engine.report.pages.markup import Markup, code, element, folded, lines, table
from mutual.engine.report.pages.numbers import bytes_text, is_finite


def costs(findings: Findings, speed: Markup | None) -> list[object]:
    """Returns what the run took: a table, and the chart of its speed."""
    summary = findings.summary
    rates = sorted(
        row["train"]["images_per_second"] for row in findings.history if is_finite(row.get("train", {}).get("images_per_second"))
    )
    rows: list[tuple[str, str]] = []
    if summary is not None:
        rows += [
            ("epochs", str(summary.epoch)),
            ("updates", str(summary.update)),
            ("processes", str(summary.processes)),
            ("device", summary.device),
            ("peak memory of a process", bytes_text(summary.peak_bytes)),
            ("sent by a process in an update", bytes_text(summary.sent_bytes)),
        ]
    if rates:
        rows.append(("images per second, median over epochs", f"{rates[len(rates) // 2]:,.0f}"))
    if not rows:
        return []
    return [
        table(("what", "value"), rows, caption="What the training took"),
        None if speed is None else element("div", speed, class_="charts"),
    ]


def recipe(findings: Findings) -> list[object]:
    """Returns what differs from the recipe of the parent, and the whole recipe, folded."""
    changes = [(code(path), code(there), code(here)) for path, there, here in findings.changes]
    differs = table(("field", "parent", "this run"), changes, caption="What differs from the parent's recipe", texts=3) if changes else None
    whole = element("pre", lines(findings.recipe_text), tabindex="0", role="region", aria_label="The recipe as YAML")
    return [differs, folded("The whole recipe, as the run has resolved it", whole)]


def environment(findings: Findings) -> Markup | None:
    """Returns versions and device."""
    rows = [(code(key), code(value)) for key, value in findings.environment.items()]
    return table(("what", "version or value"), rows, caption="Where it was trained", texts=2) if rows else None
