"""Losses with a trainable part between two feature outputs: regressors, generators, projectors. The part belongs to the learner.

Shapes: B images, C channels, H and W positions; every loss is `[B]`. The trainable part runs in the precision that autocast gives, as peers
do, and what it gives is compared in full precision. Sources arrive detached.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mutual.objectives import feature
from mutual.objectives.precision import in_full_precision
from mutual.objectives.shapes import Shape, feature_maps, resized, size_of, to_vector, vector_width
from mutual.objectives.spec import LossSpec, SourcePayload

_l2 = in_full_precision(feature.l2)
_cosine = in_full_precision(feature.cosine)


class HintLoss(nn.Module):
    """FitNets' hint (arXiv:1412.6550, eq. 3): mean squared difference between the regressed learner and the source.

    The regressor is a convolution of `kernel_size` between feature maps (the learner's are brought to the source's height and width),
    and linear between vectors and rows of tokens; a feature map that meets a vector is averaged over its positions.
    """

    def __init__(self, learner_shape: Shape, source_shape: Shape, *, kernel_size: int = 1) -> None:
        super().__init__()
        if len(learner_shape) == len(source_shape) == 3:
            self.regressor: nn.Module = nn.Conv2d(learner_shape[0], source_shape[0], kernel_size, padding="same")
        elif len(source_shape) == 1:
            self.regressor = nn.Linear(vector_width(learner_shape), source_shape[0])
        elif learner_shape[:-1] == source_shape[:-1]:
            self.regressor = nn.Linear(learner_shape[-1], source_shape[-1])
        else:
            raise ValueError("cannot be joined by a regressor: take two feature maps, or outputs that agree in all but their width")

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Returns the loss of `learner` against `source`, each `[B, ...]`."""
        if source.dim() == 4:
            learner = resized(learner, size_of(source))
        elif source.dim() == 2:
            learner = to_vector(learner)
        return _l2(self.regressor(learner), source)


class MaskedGenerationLoss(nn.Module):
    """MGD (arXiv:2205.01529, section 3): the source's feature map, generated from the learner's with some channels masked.

    alpha_mgd times the mean squared difference, over all elements as in PaddleClas. Each channel of each image is masked with
    probability `lambda_mgd`, as in the authors' code for classification.
    """

    def __init__(self, learner_shape: Shape, source_shape: Shape, *, alpha_mgd: float = 1.756, lambda_mgd: float = 0.15) -> None:
        super().__init__()
        feature_maps(learner_shape, source_shape)
        if learner_shape[1:] != source_shape[1:]:
            raise ValueError("needs equal heights and widths: take layers that agree in them")
        self.alpha, self.mask_probability = alpha_mgd, lambda_mgd
        channels = source_shape[0]
        self.align = nn.Identity() if learner_shape[0] == channels else nn.Conv2d(learner_shape[0], channels, 1)
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.generation = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, learner_BCHW: Tensor, source_BCHW: Tensor) -> Tensor:
        """Returns the loss; draws one number for each image and channel of the source."""
        aligned = self.align(learner_BCHW)
        kept = torch.rand(*source_BCHW.shape[:2], 1, 1, device=aligned.device) >= self.mask_probability
        generated = self.generation(aligned * kept)
        return self.alpha * _l2(generated, source_BCHW)


class ProjectorEnsembleLoss(nn.Module):
    """PEFD (arXiv:2210.15274, section 3): one minus the cosine of the source's vector and the mean of several projections of the learner's.

    A projector is a linear layer and a ReLU; feature maps are averaged over their positions first.
    """

    def __init__(self, learner_shape: Shape, source_shape: Shape, *, num_projectors: int = 3) -> None:
        super().__init__()
        widths = vector_width(learner_shape), vector_width(source_shape)
        self.projectors = nn.ModuleList(nn.Linear(*widths) for _ in range(num_projectors))

    def forward(self, learner: Tensor, source: Tensor) -> Tensor:
        """Returns the loss, in 0 .. 2."""
        vector = to_vector(learner)
        projected = torch.stack([projector(vector).relu() for projector in self.projectors]).mean(dim=0)
        return _cosine(projected, to_vector(source))


class OverhaulLoss(nn.Module):
    """OFD (arXiv:1904.01866, section 3): partial L2 distance, summed over feature maps before ReLU, mean over the images.

    The source passes its margin ReLU, max(x, m) with a margin m < 0 for each channel; positions where the source is not positive
    and the learner is below it already count nothing. The learner passes a 1x1 convolution and BatchNorm. Of L layers the
    last counts 1, the one before 1/2, and so on, as in the authors' code.
    """

    def __init__(self, learner_shape: list[Shape], source_shape: list[Shape], *, margins: list[Tensor] | None = None) -> None:
        super().__init__()
        feature_maps(*learner_shape, *source_shape)
        if [shape[1:] for shape in learner_shape] != [shape[1:] for shape in source_shape]:
            raise ValueError("needs layers that agree in height and width")
        widths = [(learner[0], source[0]) for learner, source in zip(learner_shape, source_shape, strict=True)]
        self.adapters = nn.ModuleList(nn.Sequential(nn.Conv2d(*width, 1, bias=False), SafeBatchNorm2d(width[1])) for width in widths)
        for layer, (_, width) in enumerate(widths):
            margin = torch.full((width,), margin_of_normal(0.0, 1.0)) if margins is None else margins[layer]
            if len(margin) != width:
                raise ValueError(f"the source's BatchNorm has {len(margin)} channels where the layer has {width}")
            self.register_buffer(f"margin{layer}", margin)

    def forward(self, learner: list[Tensor], source: list[Tensor]) -> Tensor:
        """Returns the loss over the layers, each `[B, C, H, W]`."""
        total = torch.zeros(len(learner[0]), device=learner[0].device)
        for layer, (adapter, learner_x, source_x) in enumerate(zip(self.adapters, learner, source, strict=True)):
            margin = self.get_buffer(f"margin{layer}")[:, None, None]
            distance = partial_l2(adapter(learner_x), torch.maximum(source_x, margin))
            total = total + distance / 2 ** (len(self.adapters) - 1 - layer)
        return total


@in_full_precision
def partial_l2(learner: Tensor, target: Tensor) -> Tensor:
    """Returns `[B]`: the squared difference summed over each image's elements, without those where learner <= target <= 0."""
    mask = (learner > target) | (target > 0)
    return ((learner - target).pow(2) * mask).flatten(1).sum(dim=1)


def margin_of_normal(mean: float, deviation: float) -> float:
    """Returns E[x | x < 0] of a normal distribution: the margin of a channel behind a BatchNorm (arXiv:1904.01866, section 3)."""
    if mean > 1000 * deviation:  # the limit; the difference below would be lost in rounding
        return -deviation * deviation / mean
    ratio = torch.tensor(-mean / max(deviation, 1e-12), dtype=torch.float64)
    log_density = -ratio.square() / 2 - math.log(math.sqrt(2 * math.pi))
    return float(mean - deviation * torch.exp(log_density - torch.special.log_ndtr(ratio)))


def margins_of(model: nn.Module, paths: list[str]) -> dict[str, list[Tensor]]:
    """Returns OFD's margins `[C]` for the outputs of `model` at `paths`, from the last BatchNorm at each.

    A path without one inside ("layer1.2.relu:input") takes the last BatchNorm of the block that it stands in.

    Raises:
        ValueError: there is none.
    """
    return {"margins": [_margin(model, path.removesuffix(":input")) for path in paths]}


def _margin(model: nn.Module, path: str) -> Tensor:
    for module_path in (path, path.rpartition(".")[0]):
        layers = [layer for layer in model.get_submodule(module_path).modules() if isinstance(layer, _BatchNorm) and layer.affine]
        if layers:
            pairs = zip(layers[-1].bias.tolist(), layers[-1].weight.abs().tolist(), strict=True)
            return torch.tensor([margin_of_normal(mean, deviation) for mean, deviation in pairs])
    raise ValueError(f"ofd takes its margin from the source's BatchNorm, and there is none at {path!r}; take another layer or another loss")


class _SingleValueBatchNorm:
    """BatchNorm mixin: a channel with a single value has no variance and is normalised by the running statistics."""

    def forward(self: _BatchNorm, input: Tensor) -> Tensor:  # type: ignore[misc]
        """Returns the normalised rows or feature maps."""
        if input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return _BatchNorm.forward(self, input)


class SafeBatchNorm1d(_SingleValueBatchNorm, nn.BatchNorm1d):
    """BatchNorm of rows `[B, C]` that takes a single row, too."""


class SafeBatchNorm2d(_SingleValueBatchNorm, nn.BatchNorm2d):
    """BatchNorm of feature maps `[B, C, H, W]` that takes a single position, too."""


LOSSES = {
    "hint": LossSpec(HintLoss),
    "ofd": LossSpec(OverhaulLoss, multi_output=True, from_model=margins_of),
    "mgd": LossSpec(MaskedGenerationLoss, is_stochastic=True),
    "pefd": LossSpec(ProjectorEnsembleLoss, payload=SourcePayload.VECTOR),
}
