"""Storage: bytes on disk: files written whole, the run folder and its lock, checkpoints, and what a training finds there."""

from mutual.engine.storage.checkpoint_store import CheckpointStore
from mutual.engine.storage.files import UNFINISHED, json_text, sha256, unfinished, write_file
from mutual.engine.storage.opening import check_data, exclusive_access, resumed_recipe, select_checkpoint
from mutual.engine.storage.run_folder import BEST, EXPORT_SUFFIXES, EXPORTED, LAST, METRICS, BestRecord, RunFolder, peer_file

__all__ = [
    "BEST",
    "EXPORTED",
    "EXPORT_SUFFIXES",
    "LAST",
    "METRICS",
    "UNFINISHED",
    "BestRecord",
    "CheckpointStore",
    "RunFolder",
    "check_data",
    "exclusive_access",
    "json_text",
    "peer_file",
    "resumed_recipe",
    "select_checkpoint",
    "sha256",
    "unfinished",
    "write_file",
]
