"""Evaluation: from models to scores and predictions."""

from mutual.engine.evaluation.calibration import NUM_BINS, Reliability, fit_temperature, reliability
from mutual.engine.evaluation.chance import Chance, ChanceMeter
from mutual.engine.evaluation.churn import ChurnMeter
from mutual.engine.evaluation.class_scores import ClassScores, class_table
from mutual.engine.evaluation.details import DetailsMeter, EvaluationDetails, MemberDetails, pair_matrices
from mutual.engine.evaluation.embeddings import embedded
from mutual.engine.evaluation.evaluator import Evaluator
from mutual.engine.evaluation.frozen import read_headless
from mutual.engine.evaluation.inference import (
    LoadedPeer,
    RunInference,
    RunScores,
    build_data_as_trained,
    check_trusted_data,
    class_order,
    evaluate_run,
    load_frozen,
    read_models,
    score_run,
)
from mutual.engine.evaluation.kept_outputs import KeptOutputs
from mutual.engine.evaluation.neighbours import BANK_SIZE, NUM_NEIGHBOURS, knn_scores, neighbour_votes
from mutual.engine.evaluation.pairs import PairMeter, pairs_to_compare
from mutual.engine.evaluation.prediction import ImageLike, Prediction, Predictor, predict
from mutual.engine.evaluation.scored_batch import BatchObserver

__all__ = [
    "BANK_SIZE",
    "NUM_BINS",
    "NUM_NEIGHBOURS",
    "BatchObserver",
    "Chance",
    "ChanceMeter",
    "ChurnMeter",
    "ClassScores",
    "DetailsMeter",
    "EvaluationDetails",
    "Evaluator",
    "ImageLike",
    "KeptOutputs",
    "LoadedPeer",
    "MemberDetails",
    "PairMeter",
    "Prediction",
    "Predictor",
    "Reliability",
    "RunInference",
    "RunScores",
    "build_data_as_trained",
    "check_trusted_data",
    "class_order",
    "class_table",
    "embedded",
    "evaluate_run",
    "fit_temperature",
    "knn_scores",
    "load_frozen",
    "neighbour_votes",
    "pair_matrices",
    "pairs_to_compare",
    "predict",
    "read_headless",
    "read_models",
    "reliability",
    "score_run",
]
