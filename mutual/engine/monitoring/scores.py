"""Scores: what an evaluation returns."""

from __future__ import annotations

PAIRS = "pairs"
"""Beside the members' scores, what compares the peers."""
CHURN = "churn"
"""In a member's row the fraction of its predictions that are not those of the evaluation before; of an epoch, and not of weights."""
Scores = dict[str, dict[str, float]]
"""By member (peer or `ensemble`) its metrics; `pairs` has `agreement` and `kl`, where two peers or more are trained, and in the evaluations
of a training `agreement/A/B` and `kl/A/B` of single pairs, frozen peers included."""
