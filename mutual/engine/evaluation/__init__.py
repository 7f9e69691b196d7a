"""Evaluation: from models to scores and predictions."""

from mutual.engine.evaluation.chance import Chance, ChanceMeter
from mutual.engine.evaluation.evaluator import Evaluator
from mutual.engine.evaluation.inference import evaluate_run
from mutual.engine.evaluation.prediction import ImageLike, Prediction, Predictor, predict

__all__ = [
    "Chance",
    "ChanceMeter",
    "Evaluator",
    "ImageLike",
    "Prediction",
    "Predictor",
    "evaluate_run",
    "predict",
]
