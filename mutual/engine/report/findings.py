"""Findings: what a report of a run shows; `analyse_run` computes it, the page renders it. No torch here: numbers and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mutual.engine.storage import RunSummary
from mutual.recipe import Recipe


@dataclass(frozen=True)
class ReliabilityDiagram:
    """How sure a member is against how often it is right, in bins of equal width of its confidence.

    Attributes:
        counts: images in each bin.
        confidences: mean confidence of each bin; None of an empty one.
        accuracies: fraction of each bin that is right; None of an empty one.
        ece: expected calibration error.
        nll: in nats.
    """

    counts: list[int]
    confidences: list[float | None]
    accuracies: list[float | None]
    ece: float
    nll: float


@dataclass(frozen=True)
class MemberFindings:
    """What was found of one peer, or of the ensemble.

    Attributes:
        name: of the peer, or `ensemble`.
        is_frozen: whether it only taught.
        model: what the recipe calls it; empty for the ensemble.
        num_parameters: of the model; of the ensemble the sum.
        flops: of one image's forward; None where they could not be counted.
        scores: top1, nll, ece and the others, on the images of the report.
        reliability: as it is; None for several labels.
        temperature: by which its logits are divided so that the NLL on the validation images is least; None for several labels.
        scaled: reliability after that.
        confusion: `[C, C]` images of class (row) predicted as (column); empty where there are more classes than are shown.
        confused: the most frequent mistakes: (class, predicted as, images).
        per_class: by class name support, recall, precision, f1.
        churn: by evaluated epoch the fraction of images whose predicted class is not that of the evaluation before.
    """

    name: str
    is_frozen: bool
    model: str
    num_parameters: int
    flops: float | None
    scores: Mapping[str, float]
    reliability: ReliabilityDiagram | None
    temperature: float | None
    scaled: ReliabilityDiagram | None
    confusion: list[list[int]]
    confused: list[tuple[str, str, int]]
    per_class: Mapping[str, Mapping[str, float]]
    churn: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PairFindings:
    """What was found of two members, `learner` and `source` where one learns from the other.

    Attributes:
        first, second: their names.
        agreement: fraction of images for which both predict the same class, by the weights of the report; NaN, as `kl`, where one of them
            has no classifier, or they know no class in common.
        kl: mean KL(second || first) in nats: how far the first is from what the second says; where the second teaches, its fidelity
            (arXiv:2106.05945).
        agreement_by_epoch, kl_by_epoch: over the training, as metrics.jsonl has them.
        cka: by module path (first's, second's) the linear CKA of their outputs (arXiv:1905.00414).
        reverse_kl, reverse_kl_by_epoch: the same as `kl` the other way, KL(first || second).
    """

    first: str
    second: str
    agreement: float
    kl: float
    agreement_by_epoch: Mapping[int, float] = field(default_factory=dict)
    kl_by_epoch: Mapping[int, float] = field(default_factory=dict)
    cka: Mapping[tuple[str, str], float] = field(default_factory=dict)
    reverse_kl: float = math.nan
    reverse_kl_by_epoch: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageFinding:
    """One image that is worth a look.

    Attributes:
        thumbnail: a PNG as a `data:` address.
        label: name of its class.
        predictions: by member the class it predicts, and how sure it is.
        index: of the image in its split, or its file.
    """

    thumbnail: str
    label: str
    predictions: Mapping[str, tuple[str, float]]
    index: str


@dataclass(frozen=True)
class EdgeFinding:
    """An edge of the graph: who learns what from whom.

    Attributes:
        learner, source: names of peers; the source is `labels` for ground truth, `ensemble`, `NAME.ema`.
        loss: of the objective.
        at: what it reads.
        weight: of the objective.
    """

    learner: str
    source: str
    loss: str
    at: str
    weight: float


@dataclass(frozen=True)
class Findings:
    """All that a report of a run shows.

    Attributes:
        folder: the run folder.
        recipe: the resolved one.
        best_peer: the peer to ship, and `reason` why, in a sentence.
        split: whose images were scored, and `num_images` how many.
        members: peers, frozen ones and the ensemble.
        pairs: of members that can be compared, each two once.
        edges: who learns from whom.
        history: the records of metrics.jsonl.
        disagreements: images on which the peers disagree most.
        mistakes: images of which the best peer is surest and wrong.
        recipe_text: the resolved recipe as YAML; `changes` what differs from the recipe of its parent (`extended_from`, or the run that its
            weights are of): key path, there, here.
        environment: versions and device, as recipe.yaml's notes have them.
        summary: what the run took; None of one that is not finished.
        test: the scores on the test images; empty where there are none.
        class_names: in the order of the confusion matrices.
        notes: what is to be said: that validation chose the epoch, that something was left out.
        parent: the run folder that `changes` compares with; empty where there is none.
    """

    folder: str
    recipe: Recipe
    best_peer: str
    reason: str
    split: str
    num_images: int
    members: list[MemberFindings]
    pairs: list[PairFindings]
    edges: list[EdgeFinding]
    history: list[dict[str, Any]]
    disagreements: list[ImageFinding]
    mistakes: list[ImageFinding]
    recipe_text: str
    changes: list[tuple[str, str, str]]
    environment: Mapping[str, Any]
    summary: RunSummary | None
    test: Mapping[str, Mapping[str, float]]
    class_names: list[str]
    notes: list[str] = field(default_factory=list)
    parent: str = ""
