"""Losses: what an edge computes from its learner's output, its source's output and the labels."""

from mutual.objectives.registry import LOSSES, Definition, Loss, build_loss
from mutual.objectives.response import pairwise_kl

__all__ = ["LOSSES", "Definition", "Loss", "build_loss", "pairwise_kl"]
