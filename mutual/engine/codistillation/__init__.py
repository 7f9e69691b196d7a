"""Codistillation: jobs without a common process group that learn from each other's published weights."""

from mutual.engine.codistillation.jobs import restrict_to_job, split_launch
from mutual.engine.codistillation.weight_exchange import WeightExchange

__all__ = [
    "WeightExchange",
    "restrict_to_job",
    "split_launch",
]
