"""Evaluation: from models to scores and predictions."""

from mutual.engine.evaluation.calibration import NUM_BINS, Reliability, fit_temperature, reliability
from mutual.engine.evaluation.chance import Chance, ChanceMeter
from mutual.engine.evaluation.class_scores import ClassScores, class_table
from mutual.engine.evaluation.embeddings import embedded
from mutual.engine.evaluation.evaluator import Evaluator
from mutual.engine.evaluation.inference import RunScores, evaluate_run, score_run
from mutual.engine.evaluation.neighbours import BANK_SIZE, NUM_NEIGHBOURS, knn_scores, neighbour_votes
from mutual.engine.evaluation.prediction import ImageLike, Prediction, Predictor, predict

__all__ = [
    "BANK_SIZE",
    "NUM_BINS",
    "NUM_NEIGHBOURS",
    "Chance",
    "ChanceMeter",
    "ClassScores",
    "Evaluator",
    "ImageLike",
    "Prediction",
    "Predictor",
    "Reliability",
    "RunScores",
    "class_table",
    "embedded",
    "evaluate_run",
    "fit_temperature",
    "knn_scores",
    "neighbour_votes",
    "predict",
    "reliability",
    "score_run",
]
