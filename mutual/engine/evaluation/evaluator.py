"""Evaluator: scores of every peer and of their ensemble, each sample counted once over all ranks.

Images of one class: top-1, its mean over the classes (macro), top-5, NLL and ECE; of several labels: mAP and NLL.
Shapes: M members, B images, C classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mutual.data import Batch
from mutual.engine.evaluation.readable import readable_rows
from mutual.engine.evaluation.scored_batch import BatchObserver, ScoredBatch, ScoredMember
from mutual.engine.evaluation.task_metrics import TaskMetrics, task_metrics
from mutual.engine.monitoring import PAIRS, Scores
from mutual.models import ClassIndex
from mutual.recipe import ENSEMBLE

if TYPE_CHECKING:
    from torchmetrics import Metric

_NO_UPDATE = "The ``compute`` method of metric"  # was called before an update: a rank may have no samples


class Evaluator:
    """Scores peers on the validation batches.

    Args:
        peers: names of the peers; each is scored.
        ensemble: peers whose mean probabilities are scored too, if they are two or more.
        num_classes: number of logits of an image.
        device: of the logits.
        multi_label: whether an image has several labels and not one class.
        known_classes: by peer the classes of the data that its logits stand for, where these are not all; it is scored on images of these.
        compares: whether agreement and divergence of the peers are scored too, if they are two or more.
        counts_classes: whether images are counted class by class, for `class_counts`.

    Example:
        >>> evaluator = Evaluator(["a"], ["a"], num_classes=3, device=torch.device("cpu"))
        >>> batch = Batch(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), 2, 2)
        >>> logits = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
        >>> evaluator(lambda pixels, batch: {"a": logits}, [batch])["a"]["top1"]
        0.5
    """

    def __init__(
        self,
        peers: Sequence[str],
        ensemble: Sequence[str],
        *,
        num_classes: int,
        device: torch.device,
        multi_label: bool = False,
        known_classes: Mapping[str, Sequence[int]] | None = None,
        compares: bool = True,
        counts_classes: bool = False,
    ) -> None:
        self._peers = tuple(peers)
        self._known = {name: ClassIndex(known, device) for name, known in (known_classes or {}).items()}
        self._comparable = [name for name in self._peers if name not in self._known]
        ensemble = [name for name in ensemble if name not in self._known]
        self._ensemble = tuple(ensemble) if len(ensemble) > 1 else ()
        self._task = task_metrics(num_classes, multi_label=multi_label)
        self._tasks = {name: task_metrics(len(known.classes), multi_label=multi_label) for name, known in self._known.items()}
        self._multi_label = multi_label
        self._has_top5 = num_classes > 5 and not multi_label
        self._device = device
        self._num_classes = num_classes
        self._counts_classes = counts_classes
        self._compares = compares and len(self._comparable) > 1

    @property
    def class_numbers(self) -> dict[str, int]:
        """By member, peer or ensemble, how many classes it knows."""
        members = [*self._peers, *([ENSEMBLE] if self._ensemble else [])]
        return {member: len(self._known[member].classes) if member in self._known else self._num_classes for member in members}

    @torch.no_grad()
    def __call__(
        self,
        predict: Callable[[Tensor, Batch], dict[str, Tensor]],
        batches: Iterable[Batch],
        *,
        is_scoring_rank: bool = True,
        observers: Sequence[BatchObserver] = (),
    ) -> Scores:
        """Returns the scores over the batches of all ranks: accuracies and mAP as fractions, NLL in nats.

        Collective: all ranks must call it.

        Args:
            predict: returns every peer's float32 logits `[B, C]` of a batch's pixels; `[B, K]` of a peer that knows a part of the classes.
            batches: those of this rank.
            is_scoring_rank: if False, this rank computes its peers for others and adds nothing.
            observers: are given what was found of each batch that this rank scores.
        """
        for batch in batches:
            on_device = batch.to(self._device, non_blocking=True)
            logits = predict(on_device.images, batch)
            if is_scoring_rank and batch.num_valid > len(batch.bad):
                logits, labels = _readable(logits, on_device.labels, batch)
                members = self._add(logits, labels)
                for observer in observers:
                    observer.add(ScoredBatch(batch, logits, labels, members))
        return self._compute()

    def class_counts(self) -> dict[str, list[list[int]]]:
        """Returns the counts of each member since the last call, over all ranks. Collective: all ranks must call it.

        In three rows, of each class that the member knows: images that have it, that are predicted to, and of which both is true.
        """
        counts: dict[str, list[list[int]]] = {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_NO_UPDATE)
            for member, metric in self._classes.items():
                counts[member] = metric.compute().tolist()
                metric.reset()
        return counts

    @cached_property
    def _classes(self) -> dict[str, Metric]:
        from mutual.engine.evaluation.metrics import ClassCounts  # as below

        sizes = self.class_numbers if self._counts_classes else {}
        return {member: ClassCounts(size).to(self._device) for member, size in sizes.items()}

    @cached_property  # made for the first evaluation: a training need not wait for torchmetrics to begin
    def _metrics(self) -> dict[str, dict[str, Metric]]:
        tasks = {member: self._tasks.get(member, self._task) for member in self.class_numbers}
        return {member: {name: metric.to(self._device) for name, metric in task.metrics().items()} for member, task in tasks.items()}

    @cached_property
    def _pairs(self) -> dict[str, Metric]:
        from mutual.engine.evaluation.metrics import Mean  # as above

        return {name: Mean().to(self._device) for name in ("agreement", "kl")}

    def _add(self, logits: dict[str, Tensor], labels: Tensor) -> dict[str, ScoredMember]:
        """Adds a batch to the scores, and returns what each member says of it."""
        log_probabilities = {name: self._task.log_probabilities(logits[name]) for name in self._comparable}
        if self._ensemble:
            stacked = torch.stack([log_probabilities[name] for name in self._ensemble])
            log_probabilities[ENSEMBLE] = stacked.logsumexp(dim=0) - math.log(len(self._ensemble))
        members = {
            member: self._update(member, self._task, log_probability, labels) for member, log_probability in log_probabilities.items()
        }
        for name, known in self._known.items():
            targets, is_known_B = known.labels(labels, multi_label=self._multi_label)
            targets = targets if is_known_B is None else targets.clamp(min=0)
            task = self._tasks[name]
            members[name] = self._update(name, task, task.log_probabilities(logits[name]), targets, is_counted=is_known_B)
        if self._compares:
            predictions = [self._task.predictions(logits[name]) for name in self._comparable]
            agreement = torch.stack([(a == b).float().mean() for a, b in combinations(predictions, 2)]).mean()
            divergence = self._task.divergence(torch.stack([logits[name] for name in self._comparable]))
            self._pairs["agreement"].update(agreement, weight=len(labels))
            self._pairs["kl"].update(divergence, weight=len(labels))
        return members

    def _update(
        self, member: str, task: TaskMetrics, log_probability: Tensor, labels: Tensor, *, is_counted: Tensor | None = None
    ) -> ScoredMember:
        metrics = self._metrics[member]
        metrics["nll"].update(task.nll(log_probability, labels), is_counted=is_counted)
        probabilities = task.probabilities(log_probability)
        for name in metrics.keys() - {"nll"}:
            metrics[name].update(probabilities, labels, is_counted=is_counted)
        if member in self._classes:
            self._classes[member].update(probabilities, labels, is_counted=is_counted)
        return ScoredMember(probabilities, labels, is_counted)

    def _compute(self) -> Scores:
        scores = _read({**self._metrics, **({PAIRS: self._pairs} if self._compares else {})})
        pairs = {PAIRS: scores.pop(PAIRS)} if self._compares else {}
        for name, known in self._known.items():
            if self._has_top5 and len(known.classes) <= 5:
                scores[name]["top5"] = 1.0  # the class is among five of no more than five
        return {member: _valid(row) for member, row in scores.items()} | pairs


def _readable(logits: dict[str, Tensor], labels: Tensor, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Returns the rows of the images that could be read."""
    bad_rows = [image.row for image in batch.bad]
    return {name: readable_rows(logits_BC, bad_rows) for name, logits_BC in logits.items()}, readable_rows(labels, bad_rows)


def _valid(row: dict[str, float]) -> dict[str, float]:
    """Returns the scores of a member; if its NLL is NaN all are, as its predictions mean nothing."""
    return dict.fromkeys(row, math.nan) if math.isnan(row["nll"]) else row


def _read(metrics: dict[str, dict[str, Metric]]) -> Scores:
    """Returns the values of all metrics, in one transfer from the device, and resets these."""
    names = [(member, name) for member, of_member in metrics.items() for name in of_member]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_NO_UPDATE)
        warnings.filterwarnings("ignore", message="Average precision score for one or more classes")  # a class that no image has
        values = torch.stack([metrics[member][name].compute() for member, name in names]).tolist()
    scores: Scores = {member: {} for member in metrics}
    for (member, name), value in zip(names, values, strict=True):
        scores[member][name] = value
        metrics[member][name].reset()
    return scores
