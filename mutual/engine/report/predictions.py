"""SplitPredictions: the logits of all members of a run for the images of a split, computed once and kept on the host.

Shapes: N images, C classes, K of them that a member knows, M members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.data import Batch, PreparedImages
from mutual.engine.evaluation import ClassScores, Evaluator, RunInference
from mutual.engine.monitoring import Scores
from mutual.recipe import ENSEMBLE, InputError, printable

MAX_LOGITS = 2**26
"""So many logits of a member are kept at most, 256 MiB; of more, a part of the images is predicted."""


@dataclass(frozen=True)
class SplitPredictions:
    """What the members predict for images of a split, in its order, without those that could not be read.

    Attributes:
        split: `train`, `val` or `test`.
        images: those that were asked for.
        num_all: number of images of the whole split.
        positions: of each of the N images its place among `images`.
        labels: classes `[N]`, or flags `[N, C]` of several labels.
        logits: by member `[N, C]`, or `[N, K]` of one that knows a part of the classes; float32. Those of the ensemble are the logarithms
            of the mean probabilities; where images have several labels, their log-odds.
        known: by member that knows a part of the classes which these are.
        class_names: of the data.
        scores: by member, as `mutual.evaluate` computes them.
        per_class: by member its scores of each class that it knows.
        skipped: by name of an image that could not be read why.
    """

    split: str
    images: PreparedImages
    num_all: int
    positions: list[int]
    labels: Tensor
    logits: Mapping[str, Tensor]
    known: Mapping[str, tuple[int, ...]]
    class_names: tuple[str, ...]
    scores: Scores
    per_class: Mapping[str, list[ClassScores]]
    skipped: Mapping[str, str]

    @property
    def multi_label(self) -> bool:
        """Whether an image has several labels."""
        return self.labels.dim() == 2

    @property
    def num_images(self) -> int:
        """Number of images that are scored."""
        return len(self.labels)

    @cached_property
    def comparable(self) -> tuple[str, ...]:
        """The peers that know all classes."""
        return tuple(name for name in self.logits if name not in self.known and name != ENSEMBLE)

    def probabilities(self, member: str) -> Tensor:
        """Returns the probabilities `[N, C]`, `[N, K]`."""
        logits = self.logits[member]
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)

    def predictions(self, member: str) -> Tensor:
        """Returns the predicted classes of the data `[N]`; for images of one class."""
        predicted_N = self.logits[member].argmax(dim=1)
        return torch.tensor(self.known[member])[predicted_N] if member in self.known else predicted_N

    def known_images(self, member: str) -> tuple[Tensor, Tensor]:
        """Returns the logits of the images whose class the member knows, and their labels among its outputs; for images of one class."""
        if member not in self.known:
            return self.logits[member], self.labels
        position_C = torch.full((len(self.class_names),), -1)
        position_C[torch.tensor(self.known[member])] = torch.arange(len(self.known[member]))
        labels_N = position_C[self.labels]
        return self.logits[member][labels_N >= 0], labels_N[labels_N >= 0]


def predict_split(inference: RunInference, split: str, *, ensemble: list[str], max_images: int) -> SplitPredictions:
    """Predicts the images of a split, at most `max_images` of them, spread evenly over it; those that cannot be read are left out.

    Args:
        inference: peers and images.
        split: `train`, `val` or `test`.
        ensemble: the peers whose mean probabilities are a member, too, if they are two or more.
        max_images: most images.

    Raises:
        InputError: no image could be read.
    """
    info, data, comm = inference.data.info, inference.data, inference.environment.comm
    num_all = len(data.select_images(split))
    images = data.select_images(split, min(max_images, max(1, MAX_LOGITS // info.num_classes)))
    evaluator = Evaluator(
        list(inference.peers),
        ensemble,
        num_classes=info.num_classes,
        device=comm.device,
        multi_label=info.multi_label,
        known_classes=inference.known_classes,
        compares=False,
        counts_classes=True,
    )
    kept = _Recorder(inference)
    scores = evaluator(kept.predict, data.prepared_batches(images, world_size=comm.size, shard=(comm.rank, comm.size)))
    skipped = data.take_bad_images()[split]
    if not kept.positions:
        reason = next(iter(skipped.values()), "there is none")
        raise InputError(f"none of the {len(images)} {split} images could be read ({printable(reason)})")
    logits = {name: torch.cat(parts) for name, parts in kept.logits.items()}
    members = [name for name in ensemble if name not in inference.known_classes]
    if len(members) > 1:
        logits[ENSEMBLE] = ensemble_logits([logits[name] for name in members], multi_label=info.multi_label)
    per_class = inference.class_scores(evaluator)
    return SplitPredictions(
        split=split,
        images=images,
        num_all=num_all,
        positions=kept.positions,
        labels=torch.cat(kept.labels),
        logits=logits,
        known=inference.known_classes,
        class_names=info.class_names,
        scores={name: scores[name] for name in logits},
        per_class={name: per_class[name] for name in logits},
        skipped=skipped,
    )


def ensemble_logits(logits: list[Tensor], *, multi_label: bool) -> Tensor:
    """Returns logits `[N, C]` whose probabilities are the means of those of `logits`.

    Example:
        >>> ensemble_logits([torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])], multi_label=False).softmax(1)
        tensor([[0.5000, 0.5000]])
    """
    if multi_label:
        present, absent = (_log_mean([F.logsigmoid(sign * each) for each in logits]) for sign in (1, -1))
        return present - absent
    return _log_mean([F.log_softmax(each, dim=1) for each in logits])


def _log_mean(log_probabilities: list[Tensor]) -> Tensor:
    return torch.stack(log_probabilities).logsumexp(dim=0) - math.log(len(log_probabilities))


class _Recorder:
    """Keeps logits and labels of the images that could be read while they are scored."""

    def __init__(self, inference: RunInference) -> None:
        self._inference = inference
        self._next = 0
        self.logits: dict[str, list[Tensor]] = {name: [] for name in inference.peers}
        self.labels: list[Tensor] = []
        self.positions: list[int] = []

    def predict(self, pixels: Tensor, batch: Batch) -> dict[str, Tensor]:
        logits = self._inference.predict(pixels, batch)
        rows = batch.readable_rows
        for name, logits_BC in logits.items():
            self.logits[name].append(logits_BC.cpu()[rows])
        self.labels.append(batch.labels[rows])
        self.positions += [self._next + row for row in rows]
        self._next += batch.num_valid
        return logits
