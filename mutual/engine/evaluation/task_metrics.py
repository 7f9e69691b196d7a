"""TaskMetrics: how logits are turned into predictions and scores, for one class an image or several labels."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.objectives import pairwise_kl

if TYPE_CHECKING:  # torchmetrics takes a second to import: it is, when metrics are made
    from torchmetrics import Metric


class TaskMetrics(Protocol):
    """How logits `[B, C]` are turned into predictions and scores."""

    def metrics(self) -> dict[str, Metric]:
        """Returns new metrics of one member; `nll` is updated with losses, the others with probabilities and labels.

        All of them can be told which images are counted.
        """
        ...

    def log_probabilities(self, logits_BC: Tensor) -> Tensor:
        """Returns log-probabilities; an ensemble averages their exponentials."""
        ...

    def probabilities(self, log_probability: Tensor) -> Tensor:
        """Returns the probabilities `[B, C]`."""
        ...

    def nll(self, log_probability: Tensor, labels: Tensor) -> Tensor:
        """Returns the negative log-likelihood `[B]` in nats."""
        ...

    def predictions(self, logits_BC: Tensor) -> Tensor:
        """Returns the predicted classes `[B]`, or flags `[B, C]`."""
        ...

    def divergence(self, logits_MBC: Tensor) -> Tensor:
        """Returns the mean KL divergence of all ordered pairs of peers, a scalar in nats."""
        ...


class _Multiclass:
    """Each image has one class: softmax."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes

    def metrics(self) -> dict[str, Metric]:
        from mutual.engine.evaluation.metrics import Accuracy, CalibrationError, MacroAccuracy, Mean

        metrics: dict[str, Metric] = {"top1": Accuracy(), "macro_top1": MacroAccuracy(self._num_classes)}
        if self._num_classes > 5:
            metrics["top5"] = Accuracy(top_k=5)
        return {**metrics, "nll": Mean(), "ece": CalibrationError(self._num_classes, n_bins=15, validate_args=False)}

    def log_probabilities(self, logits_BC: Tensor) -> Tensor:
        return F.log_softmax(logits_BC, dim=1)

    def probabilities(self, log_probability: Tensor) -> Tensor:
        return log_probability.exp()

    def nll(self, log_probability: Tensor, labels: Tensor) -> Tensor:
        return F.nll_loss(log_probability, labels, reduction="none")

    def predictions(self, logits_BC: Tensor) -> Tensor:
        return logits_BC.argmax(dim=1)

    def divergence(self, logits_MBC: Tensor) -> Tensor:
        num_members = len(logits_MBC)
        return pairwise_kl(logits_MBC).fill_diagonal_(0).sum() / (num_members * (num_members - 1))


class _Multilabel:
    """Each image has any number of labels: a sigmoid for each class; NLL is the mean over the classes."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes

    def metrics(self) -> dict[str, Metric]:
        from mutual.engine.evaluation.metrics import AveragePrecision, Mean

        return {"map": AveragePrecision(self._num_classes, average="macro", validate_args=False), "nll": Mean()}

    def log_probabilities(self, logits_BC: Tensor) -> Tensor:
        return torch.stack([F.logsigmoid(logits_BC), F.logsigmoid(-logits_BC)])  # of each label: present, absent

    def probabilities(self, log_probability: Tensor) -> Tensor:
        return log_probability[0].exp()

    def nll(self, log_probability: Tensor, labels: Tensor) -> Tensor:
        return -torch.where(labels > 0.5, log_probability[0], log_probability[1]).mean(dim=1)

    def predictions(self, logits_BC: Tensor) -> Tensor:
        return logits_BC > 0

    def divergence(self, logits_MBC: Tensor) -> Tensor:
        log_probabilities = [self.log_probabilities(logits_BC) for logits_BC in logits_MBC]
        kl = [(p.exp() * (p - q)).sum(dim=(0, 2)).mean() for p, q in permutations(log_probabilities, 2)]
        return torch.stack(kl).mean()


def task_metrics(num_classes: int, *, multi_label: bool) -> TaskMetrics:
    """Returns how predictions of `num_classes` classes are scored."""
    return _Multilabel(num_classes) if multi_label else _Multiclass(num_classes)
