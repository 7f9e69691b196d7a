"""Storage: bytes on disk: files written whole, the run folder and its lock, checkpoints, and what a training finds there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.storage.background import BackgroundWriter
    from mutual.engine.storage.checkpoint_store import CheckpointStore
    from mutual.engine.storage.contents import Content, content_bytes, state_content, tensor_content
    from mutual.engine.storage.exports import (
        EXPORT_SUFFIXES,
        EXPORTED_RECIPE,
        MODEL_CARD,
        TIMM_CONFIG,
        TIMM_FOLDER,
        TIMM_WEIGHTS,
        check_replaceable,
        write_exported,
    )
    from mutual.engine.storage.files import MARK, UNFINISHED, check_no_links, json_text, read_file, remove, sha256, unfinished, write_file
    from mutual.engine.storage.lock import LOCK, LockWords, check_not_in_training, locked
    from mutual.engine.storage.opening import (
        Predecessor,
        check_same_classes,
        check_same_data,
        exclusive_access,
        find_predecessor,
        select_checkpoint,
    )
    from mutual.engine.storage.peer_weights import peer_file, peer_files
    from mutual.engine.storage.recipe_changes import CHANGES_NO_NUMBERS, recipe_differences
    from mutual.engine.storage.reports import REPORT, REPORT_MARK, check_report_path, is_report, write_report
    from mutual.engine.storage.run_folder import CHARTS, HPARAMS, METRICS, RunFolder, epoch_name, peer_of_file
    from mutual.engine.storage.run_records import (
        BEST,
        LAST,
        BestRecord,
        FinalScores,
        InitialScores,
        RunSummary,
        TrackedRuns,
        is_weights_name,
    )

__all__ = [
    "BEST",
    "CHANGES_NO_NUMBERS",
    "CHARTS",
    "EXPORTED_RECIPE",
    "EXPORT_SUFFIXES",
    "HPARAMS",
    "LAST",
    "LOCK",
    "MARK",
    "METRICS",
    "MODEL_CARD",
    "REPORT",
    "REPORT_MARK",
    "TIMM_CONFIG",
    "TIMM_FOLDER",
    "TIMM_WEIGHTS",
    "UNFINISHED",
    "BackgroundWriter",
    "BestRecord",
    "CheckpointStore",
    "Content",
    "FinalScores",
    "InitialScores",
    "LockWords",
    "Predecessor",
    "RunFolder",
    "RunSummary",
    "TrackedRuns",
    "check_no_links",
    "check_not_in_training",
    "check_replaceable",
    "check_report_path",
    "check_same_classes",
    "check_same_data",
    "content_bytes",
    "epoch_name",
    "exclusive_access",
    "find_predecessor",
    "is_report",
    "is_weights_name",
    "json_text",
    "locked",
    "peer_file",
    "peer_files",
    "peer_of_file",
    "read_file",
    "recipe_differences",
    "remove",
    "select_checkpoint",
    "sha256",
    "state_content",
    "tensor_content",
    "unfinished",
    "write_exported",
    "write_file",
    "write_report",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.engine.storage.background": ("BackgroundWriter",),
        "mutual.engine.storage.checkpoint_store": ("CheckpointStore",),
        "mutual.engine.storage.contents": ("Content", "content_bytes", "state_content", "tensor_content"),
        "mutual.engine.storage.exports": (
            "EXPORT_SUFFIXES",
            "EXPORTED_RECIPE",
            "MODEL_CARD",
            "TIMM_CONFIG",
            "TIMM_FOLDER",
            "TIMM_WEIGHTS",
            "check_replaceable",
            "write_exported",
        ),
        "mutual.engine.storage.files": (
            "MARK",
            "UNFINISHED",
            "check_no_links",
            "json_text",
            "read_file",
            "remove",
            "sha256",
            "unfinished",
            "write_file",
        ),
        "mutual.engine.storage.lock": ("LOCK", "LockWords", "check_not_in_training", "locked"),
        "mutual.engine.storage.opening": (
            "Predecessor",
            "check_same_classes",
            "check_same_data",
            "exclusive_access",
            "find_predecessor",
            "select_checkpoint",
        ),
        "mutual.engine.storage.reports": ("REPORT", "REPORT_MARK", "check_report_path", "is_report", "write_report"),
        "mutual.engine.storage.recipe_changes": ("CHANGES_NO_NUMBERS", "recipe_differences"),
        "mutual.engine.storage.peer_weights": ("peer_file", "peer_files"),
        "mutual.engine.storage.run_folder": ("CHARTS", "HPARAMS", "METRICS", "RunFolder", "epoch_name", "peer_of_file"),
        "mutual.engine.storage.run_records": (
            "BEST",
            "LAST",
            "BestRecord",
            "FinalScores",
            "InitialScores",
            "RunSummary",
            "TrackedRuns",
            "is_weights_name",
        ),
    },
)
