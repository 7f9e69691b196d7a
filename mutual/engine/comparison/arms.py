"""Arm: one recipe of a comparison, under several seeds; ArmRuns: what its runs gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutual.engine.comparison.result import Epoch, Split
from mutual.engine.storage import RunSummary
from mutual.recipe import Recipe

MEAN = "mean"
"""Among members: the mean over the peers that are trained."""
BEST_PEER = "best"
"""Among members: the best peer, as the run chose it by validation."""
SEED_OFFSET = 1_000_000
"""Of the baseline's other seeds (`a/a`), beyond those that a comparison is run with."""
SEEDS_OF_DATA = ("split_seed", "subset_seed")
"""Fields of `data` that a run resolves to its seed."""


@dataclass(frozen=True)
class Arm:
    """One recipe of a comparison.

    Attributes:
        name: what it is called in tables and in the names of its run folders; unique in the comparison.
        recipe: what it trains; the comparison sets `seed`, `name` and `output`.
        member: whose scores count: `mean` over the trained peers, `best`, `ensemble`, or the name of a peer.
        control: which control it is; None for an arm that the user gave.
        control_of: the arms that it is a control of; several, where the same control serves all of them.
        runs_of: the arm whose runs it reads instead of training its own (an ensemble of independent peers those of `independent`).
        seed_offset: what is added to every seed (`a/a`: the baseline under other seeds), and not to those of the data:
            paired runs have the same images.
        note: what it is in this comparison, in a line: "one peer, 71 epochs in place of 30".
    """

    name: str
    recipe: Recipe
    member: str = MEAN
    control: str | None = None
    control_of: tuple[str, ...] = ()
    runs_of: str | None = None
    seed_offset: int = 0
    note: str = ""


@dataclass(frozen=True)
class RunRecord:
    """What a comparison reads of one finished run.

    Attributes:
        folder: the run folder.
        recipe: the resolved one.
        scores: by member (peer, `ensemble`, `mean`, `best`) its metrics on the images of `split`; NaN where a metric is not finite.
        split: which images were scored.
        epoch: `best`: each peer's best weights; `last`: those of the last epoch.
        best_peer: as the run chose it; None where no weights of it are left.
        history: the records of metrics.jsonl.
        summary: what it took.
    """

    folder: Path
    recipe: Recipe
    scores: Mapping[str, Mapping[str, float]]
    split: Split
    epoch: Epoch
    best_peer: str | None
    history: list[dict[str, Any]]
    summary: RunSummary


@dataclass(frozen=True)
class ArmRuns:
    """The runs of an arm.

    Attributes:
        arm: which.
        runs: by seed of the comparison (without the arm's offset) its run.
        flops: of a whole training of one run: forwards, backwards, frozen peers' forwards, and the training of these where it is known;
            None where it was not counted.
        flops_note: what is in `flops` and what is not, in a line; empty where all is.
        images: training images that a run has seen, over all epochs.
    """

    arm: Arm
    runs: Mapping[int, RunRecord]
    flops: float | None = None
    flops_note: str = ""
    images: int = 0

    @property
    def mean_epochs(self) -> int:
        """How many epochs the runs took on average, of which `flops` are; what the recipe says where there is no run."""
        epochs = [run.summary.epoch for run in self.runs.values()]
        return round(sum(epochs) / len(epochs)) if epochs else self.arm.recipe.train.epochs
