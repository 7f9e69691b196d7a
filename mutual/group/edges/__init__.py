"""Edges: who learns what from whom, with which loss and weight."""

from mutual.group.edges.common_classes import CommonClasses, KnownClasses
from mutual.group.edges.edge import Edge, OutputKey, TensorSpec, distances_key, expand_objectives, objective_names, tap_paths
from mutual.group.edges.edge_batch import EdgeBatch, batches_of, can_be_batched
from mutual.group.edges.edge_loss import EdgeLoss, MicroBatchContext
from mutual.group.edges.logits_table import LogitsTable
from mutual.group.edges.own_losses import import_own_losses
from mutual.group.edges.selection import Selections, Selector
from mutual.group.edges.weight_schedule import weight_factor

__all__ = [
    "CommonClasses",
    "Edge",
    "EdgeBatch",
    "EdgeLoss",
    "KnownClasses",
    "LogitsTable",
    "MicroBatchContext",
    "OutputKey",
    "Selections",
    "Selector",
    "TensorSpec",
    "batches_of",
    "can_be_batched",
    "distances_key",
    "expand_objectives",
    "import_own_losses",
    "objective_names",
    "tap_paths",
    "weight_factor",
]
