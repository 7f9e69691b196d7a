"""Training, evaluation, export and what they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.comparison import (
        COMPARISON,
        DEFAULT_SEEDS,
        ArmRuns,
        CompareOptions,
        Comparison,
        ComparisonFolder,
        RunSettings,
        compare_recipes,
        compare_runs,
        default_name,
        parse_seeds,
        plan_arms,
    )
    from mutual.engine.costs import (
        PLACEMENTS,
        Link,
        MeasuredCost,
        ScalingPrediction,
        TrainingFlops,
        TuningResult,
        compare_costs,
        count_forward_flops,
        count_training_flops,
        measure_tuning,
        predict_scaling,
        store_variants,
        tuning_table,
    )
    from mutual.engine.diagnosis import diagnose, diagnosis_text
    from mutual.engine.drafting import Draft, draft_recipe
    from mutual.engine.evaluation import ImageLike, Prediction, Predictor, class_table, evaluate_run, predict, score_run
    from mutual.engine.exporting import ExportOptions, RunExport, export_model, export_run, latency_table, parse_temperature
    from mutual.engine.fitting import fit, load_peer
    from mutual.engine.inputs import check_data_present, check_inputs, check_split, check_weights_present, given_datasets
    from mutual.engine.monitoring import NonFiniteLossError, Scores
    from mutual.engine.report import Findings, analyse_run, report_comparison, report_run
    from mutual.engine.results import RunResult
    from mutual.engine.runtime import StoppedError
    from mutual.engine.storage import REPORT, RunFolder, check_report_path, json_text, peer_file, peer_files, write_file
    from mutual.engine.store_filling import FilledStore, check_stores, fill_stores
    from mutual.engine.training import Callback, TrainingState

__all__ = [
    "COMPARISON",
    "DEFAULT_SEEDS",
    "PLACEMENTS",
    "REPORT",
    "ArmRuns",
    "Callback",
    "CompareOptions",
    "Comparison",
    "ComparisonFolder",
    "Draft",
    "ExportOptions",
    "FilledStore",
    "Findings",
    "ImageLike",
    "Link",
    "MeasuredCost",
    "NonFiniteLossError",
    "Prediction",
    "Predictor",
    "RunExport",
    "RunFolder",
    "RunResult",
    "RunSettings",
    "ScalingPrediction",
    "Scores",
    "StoppedError",
    "TrainingFlops",
    "TrainingState",
    "TuningResult",
    "analyse_run",
    "check_data_present",
    "check_inputs",
    "check_report_path",
    "check_split",
    "check_stores",
    "check_weights_present",
    "class_table",
    "compare_costs",
    "compare_recipes",
    "compare_runs",
    "count_forward_flops",
    "count_training_flops",
    "default_name",
    "diagnose",
    "diagnosis_text",
    "draft_recipe",
    "evaluate_run",
    "export_model",
    "export_run",
    "fill_stores",
    "fit",
    "given_datasets",
    "json_text",
    "latency_table",
    "load_peer",
    "measure_tuning",
    "parse_seeds",
    "parse_temperature",
    "peer_file",
    "peer_files",
    "plan_arms",
    "predict",
    "predict_scaling",
    "report_comparison",
    "report_run",
    "score_run",
    "store_variants",
    "tuning_table",
    "write_file",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.engine.comparison": (
            "COMPARISON",
            "DEFAULT_SEEDS",
            "ArmRuns",
            "CompareOptions",
            "Comparison",
            "ComparisonFolder",
            "RunSettings",
            "compare_recipes",
            "compare_runs",
            "default_name",
            "parse_seeds",
            "plan_arms",
        ),
        "mutual.engine.costs": (
            "PLACEMENTS",
            "Link",
            "MeasuredCost",
            "ScalingPrediction",
            "TrainingFlops",
            "TuningResult",
            "compare_costs",
            "count_forward_flops",
            "count_training_flops",
            "measure_tuning",
            "predict_scaling",
            "store_variants",
            "tuning_table",
        ),
        "mutual.engine.diagnosis": ("diagnose", "diagnosis_text"),
        "mutual.engine.drafting": ("Draft", "draft_recipe"),
        "mutual.engine.evaluation": ("ImageLike", "Prediction", "Predictor", "class_table", "evaluate_run", "predict", "score_run"),
        "mutual.engine.exporting": ("ExportOptions", "RunExport", "export_model", "export_run", "latency_table", "parse_temperature"),
        "mutual.engine.fitting": ("fit", "load_peer"),
        "mutual.engine.inputs": ("check_data_present", "check_inputs", "check_split", "check_weights_present", "given_datasets"),
        "mutual.engine.monitoring": ("NonFiniteLossError", "Scores"),
        "mutual.engine.report": ("Findings", "analyse_run", "report_comparison", "report_run"),
        "mutual.engine.results": ("RunResult",),
        "mutual.engine.runtime": ("StoppedError",),
        "mutual.engine.storage": ("REPORT", "RunFolder", "check_report_path", "json_text", "peer_file", "peer_files", "write_file"),
        "mutual.engine.store_filling": ("FilledStore", "check_stores", "fill_stores"),
        "mutual.engine.training": ("Callback", "TrainingState"),
    },
)
