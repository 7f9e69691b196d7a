"""Scores of single classes: support, recall, precision and F1, from counts that are summed over all ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassScores:
    """The scores of a class; NaN where there is nothing to divide by.

    Attributes:
        name: the class.
        support: number of its images.
        recall: the fraction of its images that are predicted to be of it.
        precision: the fraction of the images predicted to be of it that are.
        f1: the harmonic mean of both.
    """

    name: str
    support: int
    recall: float
    precision: float
    f1: float


def class_scores(names: Sequence[str], counts: Sequence[Sequence[int]]) -> list[ClassScores]:
    """Returns the scores of each class.

    Args:
        names: the classes.
        counts: of each the images that have it, those that are predicted to, and those of which both is true; three rows.

    Example:
        >>> class_scores(["cat", "dog"], [[4, 0], [2, 2], [2, 0]])
        [ClassScores(name='cat', support=4, recall=0.5, precision=1.0, f1=0.6666666666666666), \
ClassScores(name='dog', support=0, recall=nan, precision=0.0, f1=0.0)]
    """
    return [
        ClassScores(name, support, _ratio(hits, support), _ratio(hits, predicted), _ratio(2 * hits, support + predicted))
        for name, support, predicted, hits in zip(names, *counts, strict=True)
    ]


def class_table(by_member: Mapping[str, Sequence[ClassScores]]) -> str:
    """Returns the scores as lines: for each member a table, of a line for each class; in percent."""
    lines = []
    for member, rows in by_member.items():
        width = max([12, *(len(row.name) for row in rows)])
        lines += ["", f"{member:{width}}{'support':>9}{'recall':>9}{'precision':>11}{'F1':>9}"]
        for row in rows:
            recall, precision, f1 = (_percent(value) for value in (row.recall, row.precision, row.f1))
            lines.append(f"{row.name:{width}}{row.support:>9,}{recall:>9}{precision:>11}{f1:>9}")
    return "\n".join(lines)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"
