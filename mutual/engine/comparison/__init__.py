"""Comparison: arms and controls under several seeds, what their runs gave, and whether the difference is real."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.comparison.arms import BEST_PEER, MEAN, Arm, ArmRuns, RunRecord
    from mutual.engine.comparison.comparing import compare_arms
    from mutual.engine.comparison.comparison_folder import ComparisonFolder
    from mutual.engine.comparison.control_names import CONTROLS
    from mutual.engine.comparison.controls import ControlPlan, control_arms
    from mutual.engine.comparison.grouping import find_runs, group_runs
    from mutual.engine.comparison.metrics import format_metric, is_accuracy, is_lower_better
    from mutual.engine.comparison.orchestration import CompareOptions, compare_recipes, compare_runs
    from mutual.engine.comparison.planning import DEFAULT_SEEDS, default_name, parse_seeds, plan_arms
    from mutual.engine.comparison.plots import plot_curves
    from mutual.engine.comparison.reading import read_arms, read_run
    from mutual.engine.comparison.result import COMPARISON, ArmSummary, Comparison, Difference, EqualCompute, MetricSummary
    from mutual.engine.comparison.tables import Format, render
    from mutual.engine.comparison.training import RunSettings, train_arms

__all__ = [
    "BEST_PEER",
    "COMPARISON",
    "CONTROLS",
    "DEFAULT_SEEDS",
    "MEAN",
    "Arm",
    "ArmRuns",
    "ArmSummary",
    "CompareOptions",
    "Comparison",
    "ComparisonFolder",
    "ControlPlan",
    "Difference",
    "EqualCompute",
    "Format",
    "MetricSummary",
    "RunRecord",
    "RunSettings",
    "compare_arms",
    "compare_recipes",
    "compare_runs",
    "control_arms",
    "default_name",
    "find_runs",
    "format_metric",
    "group_runs",
    "is_accuracy",
    "is_lower_better",
    "parse_seeds",
    "plan_arms",
    "plot_curves",
    "read_arms",
    "read_run",
    "render",
    "train_arms",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.engine.comparison.arms": ("BEST_PEER", "MEAN", "Arm", "ArmRuns", "RunRecord"),
        "mutual.engine.comparison.comparing": ("compare_arms",),
        "mutual.engine.comparison.comparison_folder": ("ComparisonFolder",),
        "mutual.engine.comparison.control_names": ("CONTROLS",),
        "mutual.engine.comparison.controls": ("ControlPlan", "control_arms"),
        "mutual.engine.comparison.grouping": ("find_runs", "group_runs"),
        "mutual.engine.comparison.metrics": ("format_metric", "is_accuracy", "is_lower_better"),
        "mutual.engine.comparison.orchestration": ("CompareOptions", "compare_recipes", "compare_runs"),
        "mutual.engine.comparison.planning": ("DEFAULT_SEEDS", "default_name", "parse_seeds", "plan_arms"),
        "mutual.engine.comparison.plots": ("plot_curves",),
        "mutual.engine.comparison.reading": ("read_arms", "read_run"),
        "mutual.engine.comparison.result": ("COMPARISON", "ArmSummary", "Comparison", "Difference", "EqualCompute", "MetricSummary"),
        "mutual.engine.comparison.tables": ("Format", "render"),
        "mutual.engine.comparison.training": ("RunSettings", "train_arms"),
    },
)
