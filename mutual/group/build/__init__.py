"""Build: from a recipe to a group of peers and edges, checked by a dry run."""

from mutual.group.build.builder import build_group, create_peer_model
from mutual.group.build.dry_run import input_mismatch_error

__all__ = [
    "build_group",
    "create_peer_model",
    "input_mismatch_error",
]
