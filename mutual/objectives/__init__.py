"""Losses: what an edge computes from its learner's output, its source's output and the labels."""

from mutual.objectives.ensembles import ENSEMBLES
from mutual.objectives.registry import LOSSES, Definition, Loss, Output, build_loss
from mutual.objectives.relation import distances
from mutual.objectives.response import pairwise_kl
from mutual.objectives.shapes import Extent, Shape, to_vector, vector_width

__all__ = [
    "ENSEMBLES",
    "LOSSES",
    "Definition",
    "Extent",
    "Loss",
    "Output",
    "Shape",
    "build_loss",
    "distances",
    "pairwise_kl",
    "to_vector",
    "vector_width",
]
