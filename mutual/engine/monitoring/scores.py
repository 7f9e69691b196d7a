"""Scores: what an evaluation returns."""

from __future__ import annotations

import math
from collections.abc import Mapping

PAIRS = "pairs"
"""Beside the members' scores, what compares the peers."""
CHURN = "churn"
"""In a member's row the fraction of its predictions that are not those of the evaluation before; of an epoch, and not of weights."""
Scores = dict[str, dict[str, float]]
"""By member (peer or `ensemble`) its metrics; `pairs` has `agreement` and `kl`, where two peers or more are trained, and in the evaluations
of a training `agreement/A/B` and `kl/A/B` of single pairs, frozen peers included."""


def ranking_key(row: Mapping[str, float], metric: str) -> tuple[float, float]:
    """Returns what orders scores of weights by `metric`, greater where they are better: of equal ones the lower NLL is.

    Where the metric or the NLL is missing, or not finite, they are worse than any others.

    Example:
        >>> max([{"top1": 0.5, "nll": 2.0}, {"top1": 0.5, "nll": 1.0}, {}], key=lambda row: ranking_key(row, "top1"))
        {'top1': 0.5, 'nll': 1.0}
    """
    value, nll = row.get(metric, math.nan), row.get("nll", math.nan)
    if not (math.isfinite(value) and math.isfinite(nll)):
        return (-math.inf, -math.inf)
    return (0.0 if metric == "nll" else value, -nll)
