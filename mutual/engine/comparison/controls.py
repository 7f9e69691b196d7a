"""control_arms: the controls of a comparison, plain ways to spend the same compute, as further arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mutual.engine.comparison.arms import Arm

CONTROLS: Mapping[str, str] = {
    "independent": "the same peers, trained on labels alone",
    "longer": "one peer on labels alone, for as many epochs as the method's total compute gives",
    "ensemble": "the independent peers together; inference costs as many times more",
    "random-teacher": "a teacher with initial weights, which nothing has trained",
    "smoothing": "labels alone, smoothed to the entropy of the method's targets",
    "a/a": "the baseline under other seeds: the difference must be nothing",
}
"""By name what each control is."""
Stage = Literal["before", "after"]


@dataclass(frozen=True)
class ControlPlan:
    """What controls add to a comparison.

    Attributes:
        arms: in the order of the controls' names, and of the arms that they are of.
        notes: a line for each control that makes no sense for an arm, or cannot be made.
    """

    arms: list[Arm]
    notes: list[str]


def control_arms(
    arms: Sequence[Arm],
    baseline: str,
    names: Sequence[str],
    *,
    teacher_flops: float | None = None,
    stage: Stage = "before",
    finished: Mapping[str, Mapping[int, Path]] | None = None,
) -> ControlPlan:
    """Returns the arms that controls add to `arms`."""
    raise NotImplementedError
