"""Members: what is found of each peer and of the ensemble by itself: calibration, mistakes, classes, size, churn.

Shapes: N images, C classes, K of them that a member knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutual.engine import evaluation
from mutual.engine.costs import count_forward_flops
from mutual.engine.evaluation import ClassScores, RunInference, fit_temperature
from mutual.engine.report.findings import MemberFindings, ReliabilityDiagram
from mutual.engine.report.predictions import SplitPredictions
from mutual.recipe import ENSEMBLE, Recipe

MAX_SHOWN_CLASSES = 30
"""Of more classes the confusion matrix is not shown."""
MAX_CONFUSED = 20
"""So many of the most frequent mistakes are listed."""
_MAX_FITTED = 10_000_000
"""Logits to which a temperature is fitted; of more, those of a part of the images, spread evenly."""


def find_members(
    recipe: Recipe,
    inference: RunInference,
    predictions: SplitPredictions,
    validation: SplitPredictions,
    history: Sequence[Mapping[str, Any]],
    flops: Mapping[str, float | None],
) -> list[MemberFindings]:
    """Returns what is found of each member of `predictions`.

    Args:
        recipe: the run's.
        inference: the peers.
        predictions: for the images of the report.
        validation: for those to which temperatures are fitted.
        history: the records of metrics.jsonl.
        flops: by peer those of one image's forward.
    """
    sizes = {name: _num_parameters(peer.bare) for name, peer in inference.peers.items()}
    members = []
    for name in predictions.logits:
        of_ensemble = [peer for peer in recipe.trainable if peer in predictions.comparable]
        parts = of_ensemble if name == ENSEMBLE else [name]
        counted = [flops.get(part) for part in parts]
        temperature = _temperature(validation, name)
        members.append(
            MemberFindings(
                name=name,
                is_frozen=name in recipe.peers and name not in recipe.trainable,
                model="" if name == ENSEMBLE else recipe.peers[name].model,
                num_parameters=sum(sizes[part] for part in parts),
                flops=sum(each for each in counted if each is not None) if None not in counted else None,
                scores=predictions.scores[name],
                reliability=_reliability(predictions, name, 1.0),
                temperature=temperature,
                scaled=None if temperature is None else _reliability(predictions, name, temperature),
                confusion=_confusion(predictions, name),
                confused=_confused(predictions, name),
                per_class={row.name: _as_mapping(row) for row in predictions.per_class[name]},
                churn=_churn(history, name),
            )
        )
    return members


def find_headless(recipe: Recipe, models: Mapping[str, nn.Module], history: Sequence[Mapping[str, Any]]) -> list[MemberFindings]:
    """Returns what is known of frozen peers without a classifier: their sizes, and the scores by nearest neighbours that the run has."""
    initial: Mapping[str, Any] = next((record.get("eval", {}) for record in history if record["epoch"] == 0), {})
    return [
        MemberFindings(
            name=name,
            is_frozen=True,
            model=recipe.peers[name].model,
            num_parameters=_num_parameters(model),
            flops=None,
            scores={key: math.nan if value is None else value for key, value in initial.get(name, {}).items()},
            reliability=None,
            temperature=None,
            scaled=None,
            confusion=[],
            confused=[],
            per_class={},
        )
        for name, model in models.items()
    ]


def forward_flops(inference: RunInference) -> dict[str, float | None]:
    """Returns by peer the FLOPs of one image's forward; None where the model does not run under the counter."""
    flops: dict[str, float | None] = {}
    for name, peer in inference.peers.items():
        try:
            flops[name] = count_forward_flops(peer.bare, inference.inputs[name].shape)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError):  # what the counter cannot follow
            flops[name] = None
    return flops


def _num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _temperature(validation: SplitPredictions, member: str) -> float | None:
    """Returns the temperature at which the member's NLL on the validation images is least; None where there can be none."""
    if validation.multi_label or member not in validation.logits:
        return None
    logits, labels = validation.known_images(member)
    step = max(1, -(-logits.numel() // _MAX_FITTED))
    logits, labels = logits[::step], labels[::step]
    if len(labels) == 0 or not logits.isfinite().all():
        return None
    return fit_temperature(logits, labels)


def _reliability(predictions: SplitPredictions, member: str, temperature: float) -> ReliabilityDiagram | None:
    if predictions.multi_label:
        return None
    logits, labels = predictions.known_images(member)
    if len(labels) == 0 or not logits.isfinite().all():
        return None
    log_probabilities = F.log_softmax(logits / temperature, dim=1)
    bins = evaluation.reliability(log_probabilities.exp(), labels)
    return ReliabilityDiagram(
        counts=bins.counts_K.tolist(),
        confidences=[_finite(value) for value in bins.mean_confidences.tolist()],
        accuracies=[_finite(value) for value in bins.accuracies.tolist()],
        ece=bins.ece,
        nll=float(F.nll_loss(log_probabilities, labels)),
    )


def _confusion(predictions: SplitPredictions, member: str) -> list[list[int]]:
    num_classes = len(predictions.class_names)
    if predictions.multi_label or num_classes > MAX_SHOWN_CLASSES:
        return []
    labels, predicted = _of_known(predictions, member)
    cells = (labels * num_classes + predicted).bincount(minlength=num_classes**2)
    counts: list[list[int]] = cells.view(num_classes, num_classes).tolist()
    return counts


def _confused(predictions: SplitPredictions, member: str) -> list[tuple[str, str, int]]:
    if predictions.multi_label:
        return []
    labels, predicted = _of_known(predictions, member)
    is_wrong = labels != predicted
    mistakes, counts = (labels * len(predictions.class_names) + predicted)[is_wrong].unique(return_counts=True)
    most = counts.argsort(descending=True, stable=True)[:MAX_CONFUSED]
    names = predictions.class_names
    pairs = [divmod(mistake, len(names)) for mistake in mistakes[most].tolist()]
    return [(names[label], names[other], count) for (label, other), count in zip(pairs, counts[most].tolist(), strict=True)]


def _of_known(predictions: SplitPredictions, member: str) -> tuple[Tensor, Tensor]:
    """Returns labels and predicted classes of the images whose class the member knows."""
    labels, predicted = predictions.labels, predictions.predictions(member)
    if member not in predictions.known:
        return labels, predicted
    is_known = torch.isin(labels, torch.tensor(predictions.known[member]))
    return labels[is_known], predicted[is_known]


def _churn(history: Sequence[Mapping[str, Any]], member: str) -> dict[int, float]:
    rows = {record["epoch"]: record.get("eval", {}).get(member, {}).get("churn") for record in history}
    return {epoch: churn for epoch, churn in rows.items() if churn is not None}


def _as_mapping(row: ClassScores) -> dict[str, float]:
    return {"support": row.support, "recall": row.recall, "precision": row.precision, "f1": row.f1}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
