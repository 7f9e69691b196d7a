"""Losses: what an edge computes from its learner's output, its source's output and the labels."""

from mutual.objectives.ensembles import ENSEMBLES
from mutual.objectives.own import UsersLoss, import_loss, loss
from mutual.objectives.precision import upcast
from mutual.objectives.predictions import Predictions
from mutual.objectives.registry import LOSSES, Loss, build_loss, spec_of
from mutual.objectives.relation import distances
from mutual.objectives.response import pairwise_kl
from mutual.objectives.shapes import to_vector, vector_width
from mutual.objectives.spec import LossSpec, SourcePayload

__all__ = [
    "ENSEMBLES",
    "LOSSES",
    "Loss",
    "LossSpec",
    "Predictions",
    "SourcePayload",
    "UsersLoss",
    "build_loss",
    "distances",
    "import_loss",
    "loss",
    "pairwise_kl",
    "spec_of",
    "to_vector",
    "upcast",
    "vector_width",
]
