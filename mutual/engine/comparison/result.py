"""Comparison: what a comparison found, as comparison.json has it; `mutual.compare` prints it, `mutual.report` shows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

COMPARISON = "comparison.json"
"""In the folder of a comparison, beside its run folders."""
Split = Literal["test", "val"]
Epoch = Literal["best", "last"]
Verdict = Literal["better", "worse", "not shown", "too few seeds"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MetricSummary(_Record):
    """One metric of an arm."""

    values: dict[int, float | None]
    """By seed; null where it is not finite."""
    mean: float | None
    std: float | None
    """Standard deviation over the seeds (n - 1); null of one seed."""


class ArmSummary(_Record):
    """One arm: what it is, and what its runs gave."""

    name: str
    note: str = ""
    control: str | None = None
    control_of: tuple[str, ...] = ()
    """The arms that it is a control of."""
    member: str
    """Whose scores these are: `mean`, `best`, `ensemble` or a peer."""
    runs: dict[int, str]
    """By seed the run folder."""
    metrics: dict[str, MetricSummary]
    epochs: int
    flops: float | None = None
    flops_note: str = ""
    images: int = 0


class Difference(_Record):
    """An arm against another one in one metric, paired by seed: arm minus baseline."""

    arm: str
    baseline: str
    metric: str
    num_pairs: int
    mean: float | None
    std: float | None
    interval: tuple[float, float] | None
    """The 95 % interval of the mean, by Student's t with n - 1 degrees of freedom; null of one pair."""
    p_sign_flip: float | None
    """Two-sided, exact over all 2^n changes of signs (drawn ones where these are too many)."""
    p_holm: float | None
    """The same after Holm's correction over the arms of the comparison; null where it was not among those tests."""
    verdict: Verdict


class EqualCompute(_Record):
    """How a method stands against `independent` and against `longer`, in one metric."""

    arm: str
    metric: str
    beats_independent: bool | None
    beats_equal_compute: bool | None


class Comparison(_Record):
    """What a comparison found."""

    name: str
    command: str
    """The command line that makes it."""
    baseline: str
    seeds: list[int]
    split: Split
    epoch: Epoch
    is_optimistic: bool
    """Whether the epoch was chosen on the images that are scored."""
    arms: Annotated[list[ArmSummary], Field(min_length=1)]
    differences: list[Difference]
    equal_compute: list[EqualCompute] = []
    notes: list[str] = []
    """What is to be said beside the table: what cannot be claimed, what a control left out."""

    @model_validator(mode="after")
    def _check_arms(self) -> Comparison:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names) or self.baseline not in names:
            raise ValueError("has no such baseline, or two arms of one name")
        return self
