"""Training, evaluation, export and what they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.costs import (
        PLACEMENTS,
        Link,
        MeasuredCost,
        ScalingPrediction,
        TuningResult,
        compare_costs,
        measure_tuning,
        predict_scaling,
        store_variants,
        tuning_table,
    )
    from mutual.engine.drafting import Draft, draft_recipe
    from mutual.engine.evaluation import ImageLike, Prediction, Predictor, class_table, evaluate_run, predict, score_run
    from mutual.engine.exporting import ExportOptions, RunExport, export_model, export_run, latency_table, parse_temperature
    from mutual.engine.fitting import fit, load_peer
    from mutual.engine.inputs import check_data_present, check_inputs, check_split, check_weights_present
    from mutual.engine.monitoring import NonFiniteLossError, Scores
    from mutual.engine.results import RunResult
    from mutual.engine.runtime import StoppedError
    from mutual.engine.storage import RunFolder, json_text, peer_file, peer_files, write_file
    from mutual.engine.store_filling import FilledStore, check_stores, fill_stores
    from mutual.engine.training import Callback, TrainingState

__all__ = [
    "PLACEMENTS",
    "Callback",
    "Draft",
    "ExportOptions",
    "FilledStore",
    "ImageLike",
    "Link",
    "MeasuredCost",
    "NonFiniteLossError",
    "Prediction",
    "Predictor",
    "RunExport",
    "RunFolder",
    "RunResult",
    "ScalingPrediction",
    "Scores",
    "StoppedError",
    "TrainingState",
    "TuningResult",
    "check_data_present",
    "check_inputs",
    "check_split",
    "check_stores",
    "check_weights_present",
    "class_table",
    "compare_costs",
    "draft_recipe",
    "evaluate_run",
    "export_model",
    "export_run",
    "fill_stores",
    "fit",
    "json_text",
    "latency_table",
    "load_peer",
    "measure_tuning",
    "parse_temperature",
    "peer_file",
    "peer_files",
    "predict",
    "predict_scaling",
    "score_run",
    "store_variants",
    "tuning_table",
    "write_file",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.engine.costs": (
            "PLACEMENTS",
            "Link",
            "MeasuredCost",
            "ScalingPrediction",
            "TuningResult",
            "compare_costs",
            "measure_tuning",
            "predict_scaling",
            "store_variants",
            "tuning_table",
        ),
        "mutual.engine.drafting": ("Draft", "draft_recipe"),
        "mutual.engine.evaluation": ("ImageLike", "Prediction", "Predictor", "class_table", "evaluate_run", "predict", "score_run"),
        "mutual.engine.exporting": ("ExportOptions", "RunExport", "export_model", "export_run", "latency_table", "parse_temperature"),
        "mutual.engine.fitting": ("fit", "load_peer"),
        "mutual.engine.inputs": ("check_data_present", "check_inputs", "check_split", "check_weights_present"),
        "mutual.engine.monitoring": ("NonFiniteLossError", "Scores"),
        "mutual.engine.results": ("RunResult",),
        "mutual.engine.runtime": ("StoppedError",),
        "mutual.engine.storage": ("RunFolder", "json_text", "peer_file", "peer_files", "write_file"),
        "mutual.engine.store_filling": ("FilledStore", "check_stores", "fill_stores"),
        "mutual.engine.training": ("Callback", "TrainingState"),
    },
)
