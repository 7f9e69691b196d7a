"""Evaluation: from models to scores and predictions."""

from mutual.engine.evaluation.evaluator import Evaluator
from mutual.engine.evaluation.inference import evaluate_run, predict_images

__all__ = [
    "Evaluator",
    "evaluate_run",
    "predict_images",
]
