"""Codistillation: jobs without a common process group that learn from each other's published weights."""

from mutual.engine.codistillation.jobs import as_job, divided
from mutual.engine.codistillation.publisher import StaleExchange

__all__ = [
    "StaleExchange",
    "as_job",
    "divided",
]
