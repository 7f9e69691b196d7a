"""Build: from a recipe to a group of peers and edges, checked by a dry run."""

from mutual.group.build.builder import build_group
from mutual.group.build.compilation import room_for_graphs
from mutual.group.build.data_spec import DataSpec
from mutual.group.build.dry_run import input_mismatch_error
from mutual.group.build.edge_loss_builder import build_edge_loss, source_statistics
from mutual.group.build.peer_model import PeerModel, checkpoint_peer_activations, create_peer_model

__all__ = [
    "DataSpec",
    "PeerModel",
    "build_edge_loss",
    "build_group",
    "checkpoint_peer_activations",
    "create_peer_model",
    "input_mismatch_error",
    "room_for_graphs",
    "source_statistics",
]
