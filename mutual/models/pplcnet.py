"""PP-LCNet (arXiv:2109.15099): a stem, five stages of depthwise-separable convolutions, and a wide 1x1 layer before the classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

# for each stage its blocks, as (kernel size, output channels at scale 1, squeeze-and-excitation); table 1 of the paper
_STAGES: dict[str, list[tuple[int, int, bool]]] = {
    "blocks2": [(3, 32, False)],
    "blocks3": [(3, 64, False), (3, 64, False)],
    "blocks4": [(3, 128, False), (3, 128, False)],
    "blocks5": [(3, 256, False)] + [(5, 256, False)] * 5,
    "blocks6": [(5, 512, True), (5, 512, True)],
}
_STEM_CHANNELS = 16
SCALES = (0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5)


class PPLCNet(nn.Module):
    """Images `[B, in_channels, H, W]` to logits `[B, num_classes]`; `blocks2` .. `blocks6` are the stages, to be tapped."""

    def __init__(
        self,
        scale: float,
        *,
        num_classes: int,
        in_channels: int = 3,
        strides: Sequence[int] = (2, 2, 2, 2, 2),
        dropout: float = 0.2,
        class_expand: int = 1280,
    ) -> None:
        """Builds the network with its initial weights (convolutions N(0, 2 / fan_in), classifier Xavier uniform).

        Args:
            scale: width of every stage, relative to the paper's 1.0.
            num_classes: C.
            in_channels: 1 grey, 3 colour.
            strides: of the stem and of the first block of blocks3, blocks4, blocks5 and blocks6; ones keep small images from vanishing.
            dropout: probability, before the classifier.
            class_expand: channels of the 1x1 layer before the classifier.

        Raises:
            ValueError: not five strides.
        """
        super().__init__()
        if len(strides) != 5:
            raise ValueError(f"strides {list(strides)} are {len(strides)}; PP-LCNet has five: stem, blocks3, blocks4, blocks5, blocks6")
        stem_stride, *stage_strides = strides
        width = divisible(_STEM_CHANNELS * scale)
        self.conv1 = ConvNorm(in_channels, width, 3, stride=stem_stride)
        for (name, blocks), first_stride in zip(_STAGES.items(), (1, *stage_strides), strict=True):
            stage = []
            for index, (kernel, channels, attention) in enumerate(blocks):
                out = divisible(channels * scale)
                stage.append(DepthwiseSeparable(width, out, kernel, stride=first_stride if index == 0 else 1, attention=attention))
                width = out
            self.add_module(name, nn.Sequential(*stage))
        self.last_conv = nn.Conv2d(width, class_expand, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(class_expand, num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        features = self.conv1(images)
        for name in _STAGES:
            features = self.get_submodule(name)(features)
        pooled = F.hardswish(self.last_conv(features.mean(dim=(2, 3), keepdim=True)))
        logits: Tensor = self.fc(self.dropout(pooled.flatten(1)))
        return logits


class ConvNorm(nn.Module):
    """Convolution that keeps the size (but for its stride), BatchNorm, Hardswish."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the activations `[B, out_channels, H / stride, W / stride]`."""
        return F.hardswish(self.bn(self.conv(features)))


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in 0 .. 1, `gate` of a function of all channels' means (arXiv:1709.01507)."""

    def __init__(self, channels: int, *, reduction: int = 4, gate: Callable[[Tensor], Tensor] = F.hardsigmoid) -> None:
        super().__init__()
        self.gate = gate
        self.conv1 = nn.Conv2d(channels, channels // reduction, 1)
        self.conv2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the scaled features, of the same shape."""
        return features * self.gate(self.conv2(F.relu(self.conv1(features.mean(dim=(2, 3), keepdim=True)))))


class DepthwiseSeparable(nn.Module):
    """A depthwise convolution, perhaps squeeze-and-excitation, and a pointwise convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int, attention: bool) -> None:
        super().__init__()
        self.dw_conv = ConvNorm(in_channels, in_channels, kernel, stride=stride, groups=in_channels)
        self.se = SqueezeExcitation(in_channels) if attention else nn.Identity()
        self.pw_conv = ConvNorm(in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the block's output `[B, out_channels, H / stride, W / stride]`."""
        output: Tensor = self.pw_conv(self.se(self.dw_conv(features)))
        return output


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_in = module.weight[0].numel()
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def divisible(channels: float, by: int = 8) -> int:
    """Rounds to a multiple of `by`, never down by more than a tenth."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


PPLCNETS = {f"pplcnet_x{str(scale).replace('.', '_')}": partial(PPLCNet, scale) for scale in SCALES}
