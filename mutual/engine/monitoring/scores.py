"""Scores: what an evaluation returns."""

from __future__ import annotations

PAIRS = "pairs"
"""Beside the members' scores, what compares the peers."""
Scores = dict[str, dict[str, float]]
"""By member (peer or `ensemble`) its metrics; `pairs`, where there are two peers or more, has `agreement` and `kl`."""
