"""Comparison: arms and controls under several seeds, what their runs gave, and whether the difference is real."""

from mutual.engine.comparison.arms import BEST_PEER, MEAN, Arm, ArmRuns, RunRecord, Split
from mutual.engine.comparison.comparing import compare_arms
from mutual.engine.comparison.plots import plot_curves
from mutual.engine.comparison.result import COMPARISON, ArmSummary, Comparison, Difference, EqualCompute, MetricSummary
from mutual.engine.comparison.tables import Format, render

__all__ = [
    "BEST_PEER",
    "COMPARISON",
    "MEAN",
    "Arm",
    "ArmRuns",
    "ArmSummary",
    "Comparison",
    "Difference",
    "EqualCompute",
    "Format",
    "MetricSummary",
    "RunRecord",
    "Split",
    "compare_arms",
    "plot_curves",
    "render",
]
