"""Distances between two outputs: logits, feature maps or embeddings `[B, ...]`, of equal shape but for `attention_transfer`.

Every distance is `[B]`, for each image the mean over its elements; no units of its own. Sources arrive detached.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mutual.objectives.shapes import feature_maps, resized, size_of
from mutual.objectives.spec import LossSpec


def l1(learner: Tensor, source: Tensor) -> Tensor:
    """Mean absolute difference."""
    return _image_means(F.l1_loss(learner, source, reduction="none"))


def l2(learner: Tensor, source: Tensor) -> Tensor:
    """Mean squared difference; between features of two peers it is UDML's distance (PP-LCNet recipes of PaddleClas)."""
    return _image_means(F.mse_loss(learner, source, reduction="none"))


def smooth_l1(learner: Tensor, source: Tensor, *, beta: float = 1.0) -> Tensor:
    """Huber distance divided by beta: quadratic where the difference is under `beta`, linear above (arXiv:1504.08083, eq. 3)."""
    return _image_means(F.smooth_l1_loss(learner, source, beta=beta, reduction="none"))


def cosine(learner: Tensor, source: Tensor) -> Tensor:
    """One minus the cosine similarity of each sample's flattened outputs, in 0 .. 2."""
    return 1 - F.cosine_similarity(learner.flatten(1), source.flatten(1), dim=1)


def attention_transfer(learner_BCHW: Tensor, source_BCHW: Tensor, *, power: float = 2.0) -> Tensor:
    """Attention transfer (arXiv:1612.03928, eq. 1 and 2): the squared distance of normalised attention maps, mean over their positions.

    An attention map is the mean over the channels of |activation|^power, flattened and divided by its L2 norm; the learner's is
    brought to the source's height and width first. Square and mean are those of the authors' code (weight 1000).
    """
    maps = [output.abs().pow(power).mean(dim=1, keepdim=True) for output in (learner_BCHW, source_BCHW)]
    attention = [F.normalize(each.flatten(1), dim=1) for each in (resized(maps[0], size_of(source_BCHW)), maps[1])]
    return l2(*attention)


def _image_means(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1)


LOSSES = {
    "l1": LossSpec(l1),
    "l2": LossSpec(l2),
    "smooth_l1": LossSpec(smooth_l1),
    "cosine": LossSpec(cosine),
    "at": LossSpec(attention_transfer, check=feature_maps),
}
