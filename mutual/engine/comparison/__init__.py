"""Comparison: arms and controls under several seeds, what their runs gave, and whether the difference is real."""

from mutual.engine.comparison.arms import BEST_PEER, MEAN, Arm, ArmRuns, RunRecord, Split
from mutual.engine.comparison.controls import CONTROLS, ControlPlan, control_arms
from mutual.engine.comparison.result import COMPARISON, ArmSummary, Comparison, Difference, EqualCompute, MetricSummary

__all__ = [
    "BEST_PEER",
    "COMPARISON",
    "CONTROLS",
    "MEAN",
    "Arm",
    "ArmRuns",
    "ArmSummary",
    "Comparison",
    "ControlPlan",
    "Difference",
    "EqualCompute",
    "MetricSummary",
    "RunRecord",
    "Split",
    "control_arms",
]
