"""Costs: time, memory and traffic of an update, measured and predicted, and the placement and settings that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.costs.benchmark import PLACEMENTS, MeasuredCost, compare_costs
    from mutual.engine.costs.cost_prediction import CostPrediction, predict_cost
    from mutual.engine.costs.floor import FloorCost
    from mutual.engine.costs.forward_flops import count_forward_flops
    from mutual.engine.costs.measuring import measured_training
    from mutual.engine.costs.memory import release_memory
    from mutual.engine.costs.op_counts import HostSync, OpCounts, count_ops
    from mutual.engine.costs.placement_choice import resolve_placement
    from mutual.engine.costs.profiles import Link, Links, PeerProfile, profile_peers
    from mutual.engine.costs.scaling import ScalingPrediction, predict_scaling
    from mutual.engine.costs.training_flops import TrainingFlops, count_training_flops, source_peers
    from mutual.engine.costs.tuning import measure_tuning, resolve_tuning, tune
    from mutual.engine.costs.tuning_result import TuningResult, TuningRow, tuning_table
    from mutual.engine.costs.variants import store_variants

__all__ = [
    "PLACEMENTS",
    "CostPrediction",
    "FloorCost",
    "HostSync",
    "Link",
    "Links",
    "MeasuredCost",
    "OpCounts",
    "PeerProfile",
    "ScalingPrediction",
    "TrainingFlops",
    "TuningResult",
    "TuningRow",
    "compare_costs",
    "count_forward_flops",
    "count_ops",
    "count_training_flops",
    "measure_tuning",
    "measured_training",
    "predict_cost",
    "predict_scaling",
    "profile_peers",
    "release_memory",
    "resolve_placement",
    "resolve_tuning",
    "source_peers",
    "store_variants",
    "tune",
    "tuning_table",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.engine.costs.benchmark": ("PLACEMENTS", "MeasuredCost", "compare_costs"),
        "mutual.engine.costs.cost_prediction": ("CostPrediction", "predict_cost"),
        "mutual.engine.costs.floor": ("FloorCost",),
        "mutual.engine.costs.forward_flops": ("count_forward_flops",),
        "mutual.engine.costs.measuring": ("measured_training",),
        "mutual.engine.costs.memory": ("release_memory",),
        "mutual.engine.costs.op_counts": ("HostSync", "OpCounts", "count_ops"),
        "mutual.engine.costs.placement_choice": ("resolve_placement",),
        "mutual.engine.costs.profiles": ("Link", "Links", "PeerProfile", "profile_peers"),
        "mutual.engine.costs.scaling": ("ScalingPrediction", "predict_scaling"),
        "mutual.engine.costs.training_flops": ("TrainingFlops", "count_training_flops", "source_peers"),
        "mutual.engine.costs.tuning": ("measure_tuning", "resolve_tuning", "tune"),
        "mutual.engine.costs.tuning_result": ("TuningResult", "TuningRow", "tuning_table"),
        "mutual.engine.costs.variants": ("store_variants",),
    },
)
