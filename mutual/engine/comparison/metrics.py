"""What is known of metrics by name: which way is better, and in which unit they are shown."""

from __future__ import annotations

from mutual.recipe import Recipe

_LOWER_IS_BETTER = ("nll", "ece", "churn")
_ACCURACIES = ("top1", "macro_top1", "top5", "map")
"""Fractions that are shown in percent; differences of them are in points."""


def default_metrics(recipe: Recipe) -> tuple[str, ...]:
    """Returns what runs of `recipe` are compared by, the accuracy first."""
    if recipe.data.multi_label:
        return "map", "nll"
    return "macro_top1" if recipe.train.best_metric == "macro_top1" else "top1", "nll", "ece"


def is_lower_better(metric: str) -> bool:
    """Returns whether a lower value of `metric` is the better one."""
    return metric in _LOWER_IS_BETTER


def is_accuracy(metric: str) -> bool:
    """Returns whether `metric` is a fraction that is shown in percent."""
    return metric in _ACCURACIES


def unit(metric: str, *, difference: bool = False) -> str:
    """Returns the unit that `metric`, or a difference in it, is shown in; empty where it has none."""
    if is_accuracy(metric):
        return "points" if difference else "%"
    return "nats" if metric == "nll" else ""


def format_metric(metric: str, value: float, *, signed: bool = False) -> str:
    """Returns `value` in the metric's unit: accuracies with two decimals, others with four.

    Example:
        >>> format_metric("top1", 0.9312), format_metric("nll", -0.08, signed=True)
        ('93.12', '-0.0800')
    """
    scaled, decimals = (100 * value, 2) if is_accuracy(metric) else (value, 4)
    text = f"{scaled:{'+' if signed else ''}.{decimals}f}"
    return text if float(text) else f"{0:.{decimals}f}"  # neither -0.00 nor +0.00
