"""Monitoring: training metrics, the tracker, slow and hanging ranks, skipped images; it observes and never trains."""

from mutual.engine.monitoring.scores import CHURN, PAIRS, Scores
from mutual.engine.monitoring.skipped_images import SkippedImages, naming_rank, with_rank
from mutual.engine.monitoring.stragglers import StragglerMonitor
from mutual.engine.monitoring.tracker import Tracker
from mutual.engine.monitoring.traffic import TrafficMeter
from mutual.engine.monitoring.train_metrics import NonFiniteLossError, TrainMeter

__all__ = [
    "CHURN",
    "PAIRS",
    "NonFiniteLossError",
    "Scores",
    "SkippedImages",
    "StragglerMonitor",
    "Tracker",
    "TrafficMeter",
    "TrainMeter",
    "naming_rank",
    "with_rank",
]
