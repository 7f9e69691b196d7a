"""Costs: time, memory and traffic of an update, measured and predicted, and the placement that follows."""

from mutual.engine.costs.benchmark import Cost, compare
from mutual.engine.costs.choosing import resolve_placement
from mutual.engine.costs.prediction import Prediction, predict
from mutual.engine.costs.profiles import Link, Links, PeerProfile
from mutual.engine.costs.scaling import ScalingPrediction, predict_scaling

__all__ = [
    "Cost",
    "Link",
    "Links",
    "PeerProfile",
    "Prediction",
    "ScalingPrediction",
    "compare",
    "predict",
    "predict_scaling",
    "resolve_placement",
]
