"""Monitoring: training metrics, the tracker, slow and hanging ranks, skipped images; it observes and never trains."""

from mutual.engine.monitoring.pictures import agreement_picture, confusion_picture, kl_picture, reliability_picture, views_picture
from mutual.engine.monitoring.scores import CHURN, PAIRS, Scores, ranking_key
from mutual.engine.monitoring.series import RUN, Series
from mutual.engine.monitoring.services import check_trackers
from mutual.engine.monitoring.skipped_images import SkippedImages, naming_rank, with_rank
from mutual.engine.monitoring.stragglers import StragglerMonitor
from mutual.engine.monitoring.tracker import Tracker
from mutual.engine.monitoring.traffic import TrafficMeter
from mutual.engine.monitoring.train_metrics import NonFiniteLossError, TrainMeter

__all__ = [
    "CHURN",
    "PAIRS",
    "RUN",
    "NonFiniteLossError",
    "Scores",
    "Series",
    "SkippedImages",
    "StragglerMonitor",
    "Tracker",
    "TrafficMeter",
    "TrainMeter",
    "agreement_picture",
    "check_trackers",
    "confusion_picture",
    "kl_picture",
    "naming_rank",
    "ranking_key",
    "reliability_picture",
    "views_picture",
    "with_rank",
]
