"""Distances between two outputs of equal shape `[B, ...]`: logits, feature maps or embeddings.

Every distance is a scalar, the mean over the batch and over the elements; no units of its own. Sources arrive detached.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def l1(learner: Tensor, source: Tensor) -> Tensor:
    """Mean absolute difference."""
    return F.l1_loss(learner, source)


def l2(learner: Tensor, source: Tensor) -> Tensor:
    """Mean squared difference; between features of two peers it is UDML's distance (PP-LCNet recipes of PaddleClas)."""
    return F.mse_loss(learner, source)


def smooth_l1(learner: Tensor, source: Tensor, *, beta: float = 1.0) -> Tensor:
    """Huber distance divided by beta: quadratic where the difference is under `beta`, linear above (arXiv:1504.08083, eq. 3)."""
    return F.smooth_l1_loss(learner, source, beta=beta)


def cosine(learner: Tensor, source: Tensor) -> Tensor:
    """One minus the cosine similarity of each sample's flattened outputs, in 0 .. 2."""
    return (1 - F.cosine_similarity(learner.flatten(1), source.flatten(1), dim=1)).mean()
