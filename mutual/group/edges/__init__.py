"""Edges: who learns what from whom, with which loss and weight."""

from mutual.group.edges.common_classes import CommonClasses, KnownClasses
from mutual.group.edges.edge import Edge, OutputKey, TensorSpec, distances_key, expand_objectives, objective_names, tap_paths
from mutual.group.edges.edge_loss import EdgeLoss, MicroBatchContext
from mutual.group.edges.selection import Selections
from mutual.group.edges.weight_schedule import weight_factor

__all__ = [
    "CommonClasses",
    "Edge",
    "EdgeLoss",
    "KnownClasses",
    "MicroBatchContext",
    "OutputKey",
    "Selections",
    "TensorSpec",
    "distances_key",
    "expand_objectives",
    "objective_names",
    "tap_paths",
    "weight_factor",
]
