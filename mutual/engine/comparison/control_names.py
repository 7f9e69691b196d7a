"""CONTROLS: the names of controls, and what each is. Knows no torch: `--help` lists them."""

from __future__ import annotations

from collections.abc import Mapping

INDEPENDENT, LONGER, TOGETHER, RANDOM, SMOOTHING, SAME = "independent", "longer", "ensemble", "random-teacher", "smoothing", "a/a"
CONTROLS: Mapping[str, str] = {
    INDEPENDENT: "the same peers, trained on labels alone",
    LONGER: "one peer on labels alone, for as many epochs as the method's total compute gives",
    TOGETHER: "the independent peers together; inference costs as many times more",
    RANDOM: "a teacher with initial weights, which nothing has trained",
    SMOOTHING: "labels alone, smoothed to the entropy of the method's targets",
    SAME: "the baseline under other seeds: the difference must be nothing",
}
"""By name what each control is."""
