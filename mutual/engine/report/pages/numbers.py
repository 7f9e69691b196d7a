"""Numbers as texts: accuracies in percent, losses in nats, counts with a unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

FRACTIONS = ("top1", "macro_top1", "top5", "map", "agreement", "churn", "recall", "precision", "f1", "knn_top1")
"""Metrics that are fractions, and are shown in percent."""
LABELS = {
    "top1": "top-1",
    "macro_top1": "macro top-1",
    "top5": "top-5",
    "map": "mAP",
    "nll": "NLL",
    "ece": "ECE",
    "kl": "KL",
    "f1": "F1",
    "knn_top1": "k-NN top-1",
}
_LARGEST = 1e100
"""Larger numbers are nobody's scores, and their squares overflow."""
NOTHING = "\N{EN DASH}"


def metric_label(metric: str) -> str:
    """Returns what a metric is called."""
    return LABELS.get(metric, metric.replace("_", " "))


def metric_text(metric: str, value: float | None) -> str:
    """Returns the value of a metric.

    Example:
        >>> metric_text("top1", 0.9577), metric_text("nll", 0.25672), metric_text("nll", None)
        ('95.77 %', '0.2567', '–')
    """
    if not is_finite(value):
        return NOTHING
    return f"{100 * value:.2f} %" if metric in FRACTIONS else f"{value:.4f}"


def spread_text(metric: str, value: float | None) -> str:
    """Returns a standard deviation: of a fraction in points, and without a sign."""
    if not is_finite(value):
        return NOTHING
    return f"{100 * value:.2f}" if metric in FRACTIONS else f"{value:.4f}"


def difference_text(metric: str, value: float | None) -> str:
    """Returns a difference with its sign; of a fraction in points.

    Example:
        >>> difference_text("top1", 0.028), difference_text("nll", -0.0774), difference_text("top1", -1e-5)
        ('+2.80', '-0.0774', '0.00')
    """
    if not is_finite(value):
        return NOTHING
    text = f"{100 * value:+.2f}" if metric in FRACTIONS else f"{value:+.4f}"
    return text if float(text) else text[1:]  # neither -0.00 nor +0.00, as in the comparison's own tables


def unit_of(metric: str) -> str:
    """Returns the unit of a difference, behind a space."""
    return " points" if metric in FRACTIONS else " nats" if metric in ("nll", "kl") else ""


def p_text(value: float | None) -> str:
    """Returns a p-value.

    Example:
        >>> p_text(0.03125), p_text(0.0000153)
        ('0.031', '< 0.001')
    """
    if not is_finite(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count_text(value: float | None) -> str:
    """Returns a number of parameters, operations or images in three digits.

    Example:
        >>> count_text(1_234_567), count_text(850)
        ('1.23 M', '850')
    """
    if not is_finite(value):
        return NOTHING
    rounded = float(f"{value:.3g}")
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(rounded) >= 10**power:
            return f"{rounded / 10**power:.3g} {unit}"
    return f"{rounded:g}"


def bytes_text(value: float | None) -> str:
    """Returns a number of bytes.

    Example:
        >>> bytes_text(902_660_096)
        '903 MB'
    """
    return NOTHING if not is_finite(value) else f"{count_text(value)}B" if abs(value) >= 1000 else f"{value:.0f} B"


def is_finite(value: float | None) -> TypeGuard[float]:
    """Returns whether there is a number that can be shown."""
    return value is not None and abs(value) <= _LARGEST


def finite(values: Iterable[float | None]) -> list[float]:
    """Returns those of `values` that can be drawn."""
    return [value for value in values if is_finite(value)]
