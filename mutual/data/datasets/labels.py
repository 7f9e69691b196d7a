"""Labels of a split: class numbers `[N]` (-1: unknown), or flags `[N, C]` of images that may have several."""

from __future__ import annotations

from torch import Tensor

_MANY_CLASSES = 10_000


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Returns how many images each class has, int64; those without a label are in none.

    Example:
        >>> import torch
        >>> class_counts(torch.tensor([2, 0, -1, 2]), 4).tolist()
        [1, 0, 2, 0]
    """
    return labels.sum(dim=0).long() if labels.dim() == 2 else labels[labels >= 0].bincount(minlength=num_classes)


def exceeds_images(label: int, num_images: int) -> bool:
    """Returns whether a class number is too large for so few images, so that it is none, or a slip that would make a huge classifier."""
    return label >= max(_MANY_CLASSES, 10 * num_images)
