"""Metrics of torchmetrics whose updates a GPU's host need not wait for; its own check the values that they are given.

They differ in nothing else but in which images are counted. Importing torchmetrics takes a second. Shapes: B images, C classes, L labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassCalibrationError, MultilabelAveragePrecision
from torchmetrics.utilities import dim_zero_cat


class Mean(Metric):
    """A weighted mean, NaN if one of its values is, or if there are none."""

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", default=torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, value: Tensor, *, weight: float = 1.0, is_counted: Tensor | None = None) -> None:
        """Adds values, each of this weight, and only those that are counted."""
        if is_counted is None:
            self.total += (value * weight).sum()
            self.weight += weight * value.numel()
        else:
            self.total += (torch.where(is_counted, value, 0) * weight).sum()
            self.weight += weight * is_counted.sum()

    def compute(self) -> Tensor:
        """Returns the mean."""
        return self.total / self.weight


class Accuracy(Metric):
    """The fraction of the images whose class is among the `top_k` likeliest; 0 of no images. The counts are integers."""

    num_hits: Tensor
    num_images: Tensor

    def __init__(self, top_k: int = 1) -> None:
        super().__init__()
        self._top_k = top_k
        self.add_state("num_hits", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_images", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probabilities_BC: Tensor, labels_B: Tensor, *, is_counted: Tensor | None = None) -> None:
        """Counts the images, or those that are counted, and those with the class among the likeliest."""
        if self._top_k == 1:
            is_hit_B = probabilities_BC.argmax(dim=1) == labels_B
        else:
            is_hit_B = (probabilities_BC.topk(self._top_k, dim=1).indices == labels_B[:, None]).any(dim=1)
        self.num_hits += (is_hit_B if is_counted is None else is_hit_B & is_counted).sum()
        self.num_images += len(labels_B) if is_counted is None else is_counted.sum()

    def compute(self) -> Tensor:
        """Returns the fraction."""
        return self.num_hits.float() / self.num_images.clamp(min=1).float()


class ClassCounts(Metric):
    """Of each class the images that have it, those that are predicted to, and those of which both is true, `[3, C]`; integers.

    Where images have several labels, probabilities above 1/2 are predictions. Memory grows with C, and not with its square.
    """

    counts_3C: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("counts_3C", default=torch.zeros(3, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities_BC: Tensor, labels: Tensor, *, is_counted: Tensor | None = None) -> None:
        """Counts the images with classes `[B]` or flags `[B, C]`, or those of them that are counted."""
        if labels.dim() == 2:
            predicted, present = (probabilities_BC > 0.5).long(), (labels > 0.5).long()
            self.counts_3C += torch.stack([each.sum(dim=0) for each in (present, predicted, present * predicted)])
            return
        predictions_B = probabilities_BC.argmax(dim=1)
        ones_B = torch.ones_like(labels) if is_counted is None else is_counted.long()
        for row, (classes_B, values_B) in enumerate(
            ((labels, ones_B), (predictions_B, ones_B), (labels, ones_B * (predictions_B == labels)))
        ):  # bincount would make the host wait
            self.counts_3C[row].index_add_(0, classes_B, values_B)

    def compute(self) -> Tensor:
        """Returns the counts."""
        return self.counts_3C


class MacroAccuracy(ClassCounts):
    """The mean of the classes' recalls, over the classes that occur; 0 of no images."""

    def compute(self) -> Tensor:
        """Returns the mean."""
        num_images_C, _, num_hits_C = self.counts_3C.double()
        recall_C = num_hits_C / num_images_C.clamp(min=1)
        return (recall_C.sum() / (num_images_C > 0).sum().clamp(min=1)).float()


class CalibrationError(MulticlassCalibrationError):
    """The expected calibration error."""

    def update(self, preds: Tensor, target: Tensor, *, is_counted: Tensor | None = None) -> None:
        """Keeps confidence and correctness of each image; of those that are not counted a confidence below 0."""
        confidences_B, predictions_B = preds.max(dim=1)
        if is_counted is not None:
            confidences_B = torch.where(is_counted, confidences_B, -1)
        self.confidences.append(confidences_B.float())
        self.accuracies.append((predictions_B == target).float())

    def compute(self) -> Tensor:
        """Returns the error over the images that are counted."""
        confidences, accuracies = dim_zero_cat(self.confidences), dim_zero_cat(self.accuracies)
        is_counted = ~(confidences < 0)  # NaN is
        self.confidences, self.accuracies = [confidences[is_counted]], [accuracies[is_counted]]
        error: Tensor = super().compute()
        return error


class AveragePrecision(MultilabelAveragePrecision):
    """The mean average precision over the labels."""

    def update(self, preds: Tensor, target: Tensor, *, is_counted: Any = None) -> None:
        """Keeps the probabilities and labels `[B, L]`."""
        self.preds.append(preds)
        self.target.append(target)
