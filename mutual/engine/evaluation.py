"""Evaluation: top-1, top-5, NLL and ECE of every peer and of their ensemble, each sample counted once over all ranks.

Shapes: M members, B images, C classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from mutual.data import Batch, DataInfo, to_inputs
from mutual.objectives import pairwise_kl

ENSEMBLE = "ensemble"
Scores = dict[str, dict[str, float]]
"""By member (peer or `ensemble`) its metrics; `pairs`, where there are two peers or more, has `agreement` and `kl`."""


class Evaluator:
    """Scores peers on the validation batches."""

    def __init__(self, peers: Sequence[str], ensemble: Sequence[str], *, num_classes: int, device: torch.device) -> None:
        """Scores each of `peers`, and the mean of the probabilities of those in `ensemble` if they are two or more."""
        self._peers = tuple(peers)
        self._ensemble = tuple(ensemble) if len(ensemble) > 1 else ()
        members = [*peers, *([ENSEMBLE] if self._ensemble else [])]
        self._device = device
        self._metrics = {member: _member_metrics(num_classes, device) for member in members}
        self._pairs: dict[str, Metric] = {name: MeanMetric().to(device) for name in ("agreement", "kl")}

    @torch.no_grad()
    def __call__(
        self,
        predict: Callable[[Tensor], dict[str, Tensor]],
        batches: Iterable[Batch],
        info: DataInfo,
        *,
        prepare: Callable[[Tensor], Tensor],
    ) -> Scores:
        """Returns the scores over the batches of all processes; every process must call it.

        `predict` gives every peer's float32 logits `[B, C]`; accuracies are fractions, NLL is in nats.
        """
        for batch in batches:
            images, labels = to_inputs(batch.to(self._device, non_blocking=True), info)
            logits = predict(prepare(images))
            self._add(logits, labels)
        return self._compute()

    def _add(self, logits: dict[str, Tensor], labels: Tensor) -> None:
        log_probabilities = {name: F.log_softmax(logits[name], dim=1) for name in self._peers}
        if self._ensemble:
            stacked_MBC = torch.stack([log_probabilities[name] for name in self._ensemble])
            log_probabilities[ENSEMBLE] = stacked_MBC.logsumexp(dim=0) - math.log(len(self._ensemble))
        for member, log_probability_BC in log_probabilities.items():
            metrics = self._metrics[member]
            metrics["nll"].update(F.nll_loss(log_probability_BC, labels, reduction="none"))
            for name in metrics.keys() - {"nll"}:
                metrics[name].update(log_probability_BC.exp(), labels)
        if len(self._peers) > 1:
            votes = [logits[name].argmax(dim=1) for name in self._peers]
            agreement = torch.stack([(a == b).float().mean() for a, b in combinations(votes, 2)]).mean()
            kl_MM = pairwise_kl(torch.stack([logits[name] for name in self._peers]))
            pairs = len(self._peers) * (len(self._peers) - 1)
            self._pairs["agreement"].update(agreement, weight=len(labels))
            self._pairs["kl"].update(kl_MM.fill_diagonal_(0).sum() / pairs, weight=len(labels))

    def _compute(self) -> Scores:
        scores = {member: _read(metrics) for member, metrics in self._metrics.items()}
        if len(self._peers) > 1:
            scores["pairs"] = _read(self._pairs)
        return scores


def _member_metrics(num_classes: int, device: torch.device) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {"top1": MulticlassAccuracy(num_classes, average="micro", validate_args=False)}
    if num_classes > 5:
        metrics["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro", validate_args=False)
    metrics["nll"] = MeanMetric()
    metrics["ece"] = MulticlassCalibrationError(num_classes, n_bins=15, validate_args=False)
    return {name: metric.to(device) for name, metric in metrics.items()}


def _read(metrics: dict[str, Metric]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")  # a rank without samples has not updated
        values = {name: float(metric.compute()) for name, metric in metrics.items()}
    for metric in metrics.values():
        metric.reset()
    return values
