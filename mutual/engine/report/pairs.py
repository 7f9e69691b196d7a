"""Pairs: how far two members say the same, by the weights of the report and over the training (fidelity, arXiv:2106.05945).

Shapes: N images, C classes, K of them that both know.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.engine.report.features import ComparedFeatures
from mutual.engine.report.findings import EdgeFinding, PairFindings
from mutual.engine.report.predictions import SplitPredictions
from mutual.engine.report.similarity import pair_values
from mutual.recipe import ENSEMBLE, Recipe, peer_of


def find_pairs(
    recipe: Recipe,
    predictions: SplitPredictions,
    edges: Sequence[EdgeFinding],
    history: Sequence[Mapping[str, Any]],
    features: ComparedFeatures,
) -> list[PairFindings]:
    """Returns what is found of each two peers; the learner first where only one of them learns from the other.

    Args:
        recipe: the run's.
        predictions: for the images of the report.
        edges: who learns from whom.
        history: the records of metrics.jsonl.
        features: the CKA of the peers' features; also of peers without a classifier, of which nothing else is known.
    """
    learns = {(edge.learner, peer_of(edge.source)) for edge in edges}
    compared = {*predictions.logits, *features.paths} - {ENSEMBLE}
    peers = [name for name in recipe.peers if name in compared]
    found = []
    for pair in combinations(peers, 2):
        is_reversed = (pair[1], pair[0]) in learns and pair not in learns
        first, second = pair[::-1] if is_reversed else pair
        agreement, kl, reverse_kl = compare(predictions, first, second)
        agreement_keys = (f"agreement/{first}/{second}", f"agreement/{second}/{first}")
        found.append(
            PairFindings(
                first=first,
                second=second,
                agreement=agreement,
                kl=kl,
                agreement_by_epoch=_over_epochs(recipe, history, agreement_keys, "agreement"),
                kl_by_epoch=_over_epochs(recipe, history, (f"kl/{first}/{second}",), "kl"),
                cka=pair_values(features.cka, features.paths, first, second),
                reverse_kl=reverse_kl,
                reverse_kl_by_epoch=_over_epochs(recipe, history, (f"kl/{second}/{first}",), "kl"),
            )
        )
    return found


def compare(predictions: SplitPredictions, first: str, second: str) -> tuple[float, float, float]:
    """Returns agreement, mean KL(second || first) and mean KL(first || second) in nats of two peers.

    NaN where one has no classifier, or no image is left.

    Where one knows a part of the classes, of the images of those that both know, by their probabilities among these.
    """
    if first not in predictions.logits or second not in predictions.logits:
        return math.nan, math.nan, math.nan
    logits_a, logits_b = _common(predictions, first, second)
    if len(logits_a) == 0 or logits_a.shape[1] == 0:
        return math.nan, math.nan, math.nan
    if predictions.multi_label:
        agreement = ((logits_a > 0) == (logits_b > 0)).float().mean()
        a, b = (torch.stack([F.logsigmoid(each), F.logsigmoid(-each)]) for each in (logits_a, logits_b))
        return float(agreement), _mean_kl(b, a, dim=(0, 2)), _mean_kl(a, b, dim=(0, 2))
    agreement = (logits_a.argmax(dim=1) == logits_b.argmax(dim=1)).float().mean()
    a, b = F.log_softmax(logits_a, dim=1), F.log_softmax(logits_b, dim=1)
    return float(agreement), _mean_kl(b, a), _mean_kl(a, b)


def _mean_kl(p: Tensor, q: Tensor, *, dim: int | tuple[int, int] = 1) -> float:
    """Returns the mean KL(p || q) of log-probabilities, each summed over `dim`."""
    return float((p.exp() * (p - q)).sum(dim=dim).mean())


def _common(predictions: SplitPredictions, first: str, second: str) -> tuple[Tensor, Tensor]:
    """Returns the logits of two peers of the classes that both know, on the images of these."""
    if first not in predictions.known and second not in predictions.known:
        return predictions.logits[first], predictions.logits[second]
    every = tuple(range(len(predictions.class_names)))
    known = {name: predictions.known.get(name, every) for name in (first, second)}
    common = [label for label in known[first] if label in set(known[second])]
    rows = slice(None) if predictions.multi_label else torch.isin(predictions.labels, torch.tensor(common, dtype=torch.int64))
    columns = {name: torch.tensor([known[name].index(label) for label in common], dtype=torch.int64) for name in known}
    return predictions.logits[first][rows][:, columns[first]], predictions.logits[second][rows][:, columns[second]]


def _over_epochs(recipe: Recipe, history: Sequence[Mapping[str, Any]], keys: Sequence[str], mean_key: str) -> dict[int, float]:
    """Returns a figure of a pair by epoch; older runs have the mean over all pairs of trained peers alone: of two that is theirs."""
    trained = recipe.trainable
    is_only_pair = len(trained) == 2 and {*keys[0].split("/")[1:]} == {*trained}
    return dict(_values(history, [*keys, *([mean_key] if is_only_pair else [])]))


def _values(history: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Iterator[tuple[int, float]]:
    for record in history:
        row = record.get("eval", {}).get("pairs", {})
        value = next((row[key] for key in keys if row.get(key) is not None), None)
        if value is not None:
            yield record["epoch"], value
