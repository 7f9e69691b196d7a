"""The engine: training loop, evaluation, checkpoints, tracking; it knows Accelerate and no loss by name."""

from mutual.commandline import print_main, run_command
from mutual.engine.costs import Cost, Link, ScalingPrediction, compare, predict_scaling
from mutual.engine.evaluation import evaluate_run, predict_images
from mutual.engine.exporting import export_model
from mutual.engine.fit import RunResult, fit, load_peer
from mutual.engine.monitoring import Scores
from mutual.engine.storage import RunFolder, json_text, peer_file

__all__ = [
    "Cost",
    "Link",
    "RunFolder",
    "RunResult",
    "ScalingPrediction",
    "Scores",
    "compare",
    "evaluate_run",
    "export_model",
    "fit",
    "json_text",
    "load_peer",
    "peer_file",
    "predict_images",
    "predict_scaling",
    "print_main",
    "run_command",
]
