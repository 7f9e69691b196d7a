"""Evaluation: every peer and their ensemble scored, each sample counted once over all ranks.

Images of one class: top-1, top-5, NLL and ECE; of several labels: mAP and NLL. Shapes: M members, B images, C classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, permutations
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MultilabelAveragePrecision

from mutual.data import Batch, DataInfo, to_inputs
from mutual.objectives import pairwise_kl

ENSEMBLE = "ensemble"
Scores = dict[str, dict[str, float]]
"""By member (peer or `ensemble`) its metrics; `pairs`, where there are two peers or more, has `agreement` and `kl`."""


class Evaluator:
    """Scores peers on the validation batches."""

    def __init__(
        self, peers: Sequence[str], ensemble: Sequence[str], *, num_classes: int, device: torch.device, multi_label: bool = False
    ) -> None:
        """Scores each of `peers`, and the mean of the probabilities of those in `ensemble` if they are two or more."""
        self._peers = tuple(peers)
        self._ensemble = tuple(ensemble) if len(ensemble) > 1 else ()
        self._kind: _Kind = _SeveralLabels(num_classes) if multi_label else _OneClass(num_classes)
        members = [*peers, *([ENSEMBLE] if self._ensemble else [])]
        self._device = device
        self._metrics = {member: {name: metric.to(device) for name, metric in self._kind.metrics().items()} for member in members}
        self._pairs: dict[str, Metric] = {name: _mean().to(device) for name in ("agreement", "kl")}

    @torch.no_grad()
    def __call__(
        self,
        predict: Callable[[Tensor, Batch], dict[str, Tensor]],
        batches: Iterable[Batch],
        info: DataInfo,
        *,
        prepare: Callable[[Tensor], Tensor],
        counts: bool = True,
    ) -> Scores:
        """Returns the scores over the batches of all processes; every process must call it.

        `predict` gives every peer's float32 logits `[B, C]` of a batch's prepared images; accuracies and mAP are fractions, NLL is in
        nats. A process that does not count computes its peers for others and adds nothing.
        """
        for batch in batches:
            images, labels = to_inputs(batch.to(self._device, non_blocking=True), info)
            logits = predict(prepare(images), batch)
            if counts and batch.count > len(batch.bad):
                self._add(*_readable(logits, labels, batch))
        return self._compute()

    def _add(self, logits: dict[str, Tensor], labels: Tensor) -> None:
        log_probabilities = {name: self._kind.log_probabilities(logits[name]) for name in self._peers}
        if self._ensemble:
            stacked = torch.stack([log_probabilities[name] for name in self._ensemble])
            log_probabilities[ENSEMBLE] = stacked.logsumexp(dim=0) - math.log(len(self._ensemble))
        for member, log_probability in log_probabilities.items():
            metrics = self._metrics[member]
            metrics["nll"].update(self._kind.nll(log_probability, labels))
            for name in metrics.keys() - {"nll"}:
                metrics[name].update(self._kind.probabilities(log_probability), labels)
        if len(self._peers) > 1:
            votes = [self._kind.votes(logits[name]) for name in self._peers]
            agreement = torch.stack([(a == b).float().mean() for a, b in combinations(votes, 2)]).mean()
            divergence = self._kind.divergence(torch.stack([logits[name] for name in self._peers]))
            self._pairs["agreement"].update(agreement, weight=len(labels))
            self._pairs["kl"].update(divergence, weight=len(labels))

    def _compute(self) -> Scores:
        scores = {member: _known(_read(metrics)) for member, metrics in self._metrics.items()}
        if len(self._peers) > 1:
            scores["pairs"] = _read(self._pairs)
        return scores


def _readable(logits: dict[str, Tensor], labels: Tensor, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Returns the rows of the images that could be read."""
    if not batch.bad:
        return logits, labels
    bad = {each.place for each in batch.bad}
    rows = torch.tensor([row for row in range(len(labels)) if row not in bad], dtype=torch.int64, device=labels.device)
    return {name: each[rows] for name, each in logits.items()}, labels[rows]


class _Kind(Protocol):
    """What predictions mean: one class an image, or several labels."""

    def metrics(self) -> dict[str, Metric]:
        """Returns new metrics of one member; `nll` is fed losses, the others probabilities and labels."""
        ...

    def log_probabilities(self, logits_BC: Tensor) -> Tensor:
        """Returns the logarithms of probabilities, of which an ensemble takes the mean."""
        ...

    def probabilities(self, log_probability: Tensor) -> Tensor:
        """Returns the probabilities `[B, C]`."""
        ...

    def nll(self, log_probability: Tensor, labels: Tensor) -> Tensor:
        """Returns the negative log-likelihood `[B]` in nats."""
        ...

    def votes(self, logits_BC: Tensor) -> Tensor:
        """Returns what the peer decides for."""
        ...

    def divergence(self, logits_MBC: Tensor) -> Tensor:
        """Returns the mean KL divergence of all ordered pairs of peers, a scalar in nats."""
        ...


class _OneClass:
    """Each image has one class: softmax."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes

    def metrics(self) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {"top1": MulticlassAccuracy(self._num_classes, average="micro", validate_args=False)}
        if self._num_classes > 5:
            metrics["top5"] = MulticlassAccuracy(self._num_classes, top_k=5, average="micro", validate_args=False)
        calibration = MulticlassCalibrationError(self._num_classes, n_bins=15, validate_args=False)
        return {**metrics, "nll": _mean(), "ece": calibration}

    def log_probabilities(self, logits_BC: Tensor) -> Tensor:
        return F.log_softmax(logits_BC, dim=1)

    def probabilities(self, log_probability: Tensor) -> Tensor:
        return log_probability.exp()

    def nll(self, log_probability: Tensor, labels: Tensor) -> Tensor:
        return F.nll_loss(log_probability, labels, reduction="none")

    def votes(self, logits_BC: Tensor) -> Tensor:
        return logits_BC.argmax(dim=1)

    def divergence(self, logits_MBC: Tensor) -> Tensor:
        members = len(logits_MBC)
        return pairwise_kl(logits_MBC).fill_diagonal_(0).sum() / (members * (members - 1))


class _SeveralLabels:
    """Each image has any number of labels: a sigmoid for each class; NLL is the mean over the classes."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes

    def metrics(self) -> dict[str, Metric]:
        return {
            "map": MultilabelAveragePrecision(self._num_classes, average="macro", validate_args=False),
            "nll": _mean(),
        }

    def log_probabilities(self, logits_BC: Tensor) -> Tensor:
        return torch.stack([F.logsigmoid(logits_BC), F.logsigmoid(-logits_BC)])  # of yes, of no

    def probabilities(self, log_probability: Tensor) -> Tensor:
        return log_probability[0].exp()

    def nll(self, log_probability: Tensor, labels: Tensor) -> Tensor:
        return -torch.where(labels > 0.5, log_probability[0], log_probability[1]).mean(dim=1)

    def votes(self, logits_BC: Tensor) -> Tensor:
        return logits_BC > 0

    def divergence(self, logits_MBC: Tensor) -> Tensor:
        both = [self.log_probabilities(logits) for logits in logits_MBC]
        kl = [(p.exp() * (p - q)).sum(dim=(0, 2)).mean() for p, q in permutations(both, 2)]
        return torch.stack(kl).mean()


def _mean() -> MeanMetric:
    """Returns a mean that is not a number where one of its values is not; by default torchmetrics leaves such values out."""
    return MeanMetric(nan_strategy=math.nan)  # with "disable" it forgets the weights (torchmetrics 1.9)


def _known(row: dict[str, float]) -> dict[str, float]:
    """Returns the scores of a member; one whose NLL is not a number for some image has none, as its guesses there mean nothing."""
    return dict.fromkeys(row, math.nan) if math.isnan(row["nll"]) else row


def _read(metrics: dict[str, Metric]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")  # a rank without samples has not updated
        warnings.filterwarnings("ignore", message="Average precision score for one or more classes")  # a class that no image has
        values = {name: float(metric.compute()) for name, metric in metrics.items()}
    for metric in metrics.values():
        metric.reset()
    return values
