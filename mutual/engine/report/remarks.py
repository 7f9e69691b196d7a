"""Remarks: what a reader has to know of the figures: what they are of, what makes them optimistic, what is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mutual.engine.report.findings import MemberFindings
from mutual.engine.report.members import MAX_SHOWN_CLASSES
from mutual.engine.report.predictions import SplitPredictions
from mutual.recipe import SPLIT_NAMES, Recipe, printable

_MAX_NAMED = 3
"""So many damaged images are named."""


def remarks(
    recipe: Recipe,
    predictions: SplitPredictions,
    validation: SplitPredictions,
    members: Sequence[MemberFindings],
    history: Sequence[Mapping[str, Any]],
    *,
    is_finished: bool,
) -> list[str]:
    """Returns lines about the figures of a report."""
    lines = []
    if not is_finished:
        done = max((record["epoch"] for record in history), default=0)
        lines.append(f"the run has not been finished, or by an earlier version: metrics.jsonl has {done} of {recipe.train.epochs} epochs")
    lines += _about_images(predictions)
    if predictions.split == "val":
        lines.append("scores on the validation images are optimistic: they chose each peer's best epoch and the best peer")
    elif predictions.split == "train":
        lines.append("the peers were trained on these images; scores on others are lower")
    if any(member.temperature is not None for member in members):
        lines.append(_about_temperatures(predictions, validation))
    if predictions.multi_label:
        lines.append("images have several labels: reliability, confusion and single images are left out")
    elif len(predictions.class_names) > MAX_SHOWN_CLASSES:
        lines.append(f"of {len(predictions.class_names):,} classes the most frequent mistakes are listed, and no confusion matrix")
    for name, known in predictions.known.items():
        lines.append(f"{name} knows {len(known)} of {len(predictions.class_names)} classes, and is scored and compared on images of these")
    lines += _about_diverged(members)
    return lines


def _about_images(predictions: SplitPredictions) -> list[str]:
    lines, name = [], SPLIT_NAMES[predictions.split]
    if len(predictions.images) < predictions.num_all:
        lines.append(f"{len(predictions.images):,} of {predictions.num_all:,} {name} images were predicted, spread evenly over them")
    if predictions.skipped:
        reasons = [f"{printable(path)} ({printable(reason)})" for path, reason in list(predictions.skipped.items())[:_MAX_NAMED]]
        more = ", ..." if len(predictions.skipped) > _MAX_NAMED else ""
        lines.append(f"{len(predictions.skipped):,} {name} images could not be read and are left out: {', '.join(reasons)}{more}")
    return lines


def _about_temperatures(predictions: SplitPredictions, validation: SplitPredictions) -> str:
    if predictions.split == "val":
        return "temperatures were fitted to the same validation images, so that reliability after scaling is optimistic"
    return f"temperatures were fitted to {validation.num_images:,} validation images, which are not those of the scores"


def _about_diverged(members: Sequence[MemberFindings]) -> list[str]:
    diverged = [member.name for member in members if math.isnan(member.scores.get("nll", 0.0))]
    return [f"the logits of {', '.join(diverged)} are not finite on some images; scores of it are left out"] if diverged else []
