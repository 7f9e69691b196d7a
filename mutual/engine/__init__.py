"""The engine: training loop, evaluation, checkpoints, tracking; it knows Accelerate and no loss by name."""

from mutual.commandline import run_verb, say
from mutual.engine.costs import Cost, Forecast, Link, compare, forecast
from mutual.engine.evaluation import evaluate_run, predict_images
from mutual.engine.exporting import export_model
from mutual.engine.fit import RunResult, fit, load_peer
from mutual.engine.monitoring import Scores
from mutual.engine.storage import RunFolder, json_text, peer_file

__all__ = [
    "Cost",
    "Forecast",
    "Link",
    "RunFolder",
    "RunResult",
    "Scores",
    "compare",
    "evaluate_run",
    "export_model",
    "fit",
    "forecast",
    "json_text",
    "load_peer",
    "peer_file",
    "predict_images",
    "run_verb",
    "say",
]
