"""Comparison: arms and controls under several seeds, what their runs gave, and whether the difference is real."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.comparison.arms import BEST_PEER, MEAN, Arm, ArmRuns, RunRecord, Split
    from mutual.engine.comparison.control_names import CONTROLS
    from mutual.engine.comparison.controls import ControlPlan, control_arms
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

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.engine.comparison.arms": ("BEST_PEER", "MEAN", "Arm", "ArmRuns", "RunRecord", "Split"),
        "mutual.engine.comparison.control_names": ("CONTROLS",),
        "mutual.engine.comparison.controls": ("ControlPlan", "control_arms"),
        "mutual.engine.comparison.result": (
            "COMPARISON",
            "ArmSummary",
            "Comparison",
            "Difference",
            "EqualCompute",
            "MetricSummary",
        ),
    },
)
