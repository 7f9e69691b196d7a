"""Curves of arms over their training, from the records of metrics.jsonl: what the plot draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mutual.engine.comparison.arms import BEST_PEER, MEAN, ArmRuns, RunRecord
from mutual.engine.comparison.control_names import RANDOM
from mutual.engine.comparison.statistics import mean_and_std

Scores = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Curve:
    """One metric of an arm on the validation images, over the epochs that were evaluated in all of its runs.

    Attributes:
        arm: its name.
        num_seeds: number of runs.
        epochs: 0 is before the first update, where peers begin with weights.
        means: over the runs; NaN where one of them is not finite.
        stds: standard deviations over the runs (n - 1); zeros for one run.
        flops: that a run has taken until each epoch; None where they were not counted.
    """

    arm: str
    num_seeds: int
    epochs: Sequence[int]
    means: Sequence[float]
    stds: Sequence[float]
    flops: Sequence[float] | None


def arm_curve(runs: ArmRuns, metric: str) -> Curve:
    """Returns the curve of an arm's member; without points where its runs were not scored by `metric`."""
    by_run = [_history(record, runs.arm.member, metric) for record in runs.runs.values()]
    epochs = sorted(set.intersection(*map(set, by_run))) if by_run else []
    rows = [[history[epoch] for history in by_run] for epoch in epochs]
    found = [mean_and_std(row) if all(map(math.isfinite, row)) else (None, None) for row in rows]
    return Curve(
        arm=runs.arm.name,
        num_seeds=len(by_run),
        epochs=epochs,
        means=[math.nan if mean is None else mean for mean, _ in found],
        stds=[0.0 if std is None else std for _, std in found],
        flops=None if runs.flops is None else [runs.flops * epoch / runs.mean_epochs for epoch in epochs],
    )


def teacher_scores(arm_runs: Sequence[ArmRuns], metric: str) -> dict[str, float]:
    """Returns by name the frozen peers' scores, the mean over the runs of an arm; arms with equal teachers have one in common.

    Random teachers are left out: they score what chance gives, far from what is compared.
    """
    found: dict[str, float] = {}
    for runs in arm_runs:
        frozen = [name for name, peer in runs.arm.recipe.peers.items() if peer.frozen and runs.arm.control != RANDOM]
        for name in frozen:
            values = [value for record in runs.runs.values() if (value := _last_score(record, name, metric)) is not None]
            if not values:
                continue
            mean = sum(values) / len(values)
            same_name = [other for other in found if other == name or other.startswith(f"{name} of ")]
            if all(not math.isclose(found[other], mean, abs_tol=5e-4) for other in same_name):
                found[f"{name} of {runs.arm.name}" if same_name else name] = mean
    return found


def _history(record: RunRecord, member: str, metric: str) -> dict[int, float]:
    """Returns by epoch the member's score; NaN where it is not finite."""
    peers = _peers_of(record, member)
    found = {}
    for line in record.history:
        scores: Scores = line.get("eval") or {}
        rows = [scores.get(peer, {}) for peer in peers]
        if all(metric in row for row in rows):
            values = [math.nan if (value := row[metric]) is None else value for row in rows]
            found[int(line["epoch"])] = sum(values) / len(values)
    return found


def _peers_of(record: RunRecord, member: str) -> list[str]:
    """Returns whose scores a member's are the mean of."""
    if member == BEST_PEER and record.best_peer is not None:
        return [record.best_peer]
    return list(record.recipe.trainable) if member in (BEST_PEER, MEAN) else [member]


def _last_score(record: RunRecord, peer: str, metric: str) -> float | None:
    values = [(line.get("eval") or {}).get(peer, {}).get(metric) for line in record.history]
    return next((value for value in reversed(values) if value is not None), None)
