"""MobileNetV3 (arXiv:1905.02244) as PaddleClas builds it, with its names of modules.

It differs from torchvision's: every block has an expansion, the gates' hard sigmoid has a slope of 0.2 (not 1/6), and the layer before the
classifier is a convolution without bias.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

from torch import Tensor, nn

from mutual.models.pplcnet import SqueezeExcitation, divisible

_Activation = Literal["relu", "hardswish"]
_ACTIVATIONS: dict[_Activation, type[nn.Module]] = {"relu": nn.ReLU, "hardswish": nn.Hardswish}
# tables 1 and 2 of the paper: kernel size, channels inside and behind a block at scale 1, squeeze-and-excitation, activation, stride
_BLOCKS: dict[str, list[tuple[int, int, int, bool, _Activation, int]]] = {
    "large": [
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hardswish", 2),
        (3, 200, 80, False, "hardswish", 1),
        (3, 184, 80, False, "hardswish", 1),
        (3, 184, 80, False, "hardswish", 1),
        (3, 480, 112, True, "hardswish", 1),
        (3, 672, 112, True, "hardswish", 1),
        (5, 672, 160, True, "hardswish", 2),
        (5, 960, 160, True, "hardswish", 1),
        (5, 960, 160, True, "hardswish", 1),
    ],
    "small": [
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hardswish", 2),
        (5, 240, 40, True, "hardswish", 1),
        (5, 240, 40, True, "hardswish", 1),
        (5, 120, 48, True, "hardswish", 1),
        (5, 144, 48, True, "hardswish", 1),
        (5, 288, 96, True, "hardswish", 2),
        (5, 576, 96, True, "hardswish", 1),
        (5, 576, 96, True, "hardswish", 1),
    ],
}
_SQUEEZE = {"large": 960, "small": 576}
_SCALES = (0.35, 0.5, 0.75, 1.0, 1.25)


class MobileNetV3(nn.Module):
    """Images `[B, in_channels, H, W]` to logits `[B, num_classes]`; `blocks.0` .. are its blocks, to be tapped."""

    def __init__(
        self,
        size: Literal["large", "small"],
        scale: float,
        *,
        num_classes: int,
        in_channels: int = 3,
        inplanes: int = 16,
        class_expand: int = 1280,
        dropout_prob: float | None = 0.2,
    ) -> None:
        """Builds the network with its initial weights (convolutions N(0, 2 / fan_in) as if they had no groups, classifier Xavier uniform).

        Args:
            size: large or small.
            scale: width of every block, relative to the paper's 1.0.
            num_classes: C.
            in_channels: 1 grey, 3 colour.
            inplanes: channels of the stem at scale 1.
            class_expand: channels of the 1x1 layer before the classifier.
            dropout_prob: probability of the dropout before the classifier; None for none.
        """
        super().__init__()
        channels = divisible(inplanes * scale)
        self.conv = ConvNorm(in_channels, channels, 3, stride=2, activation="hardswish")
        blocks = []
        for kernel, inside, behind, attention, activation, stride in _BLOCKS[size]:
            out = divisible(scale * behind)
            width = divisible(scale * inside)
            blocks.append(ResidualUnit(channels, width, out, kernel, stride=stride, attention=attention, activation=activation))
            channels = out
        self.blocks = nn.Sequential(*blocks)
        squeezed = divisible(scale * _SQUEEZE[size])
        self.last_second_conv = ConvNorm(channels, squeezed, 1, activation="hardswish")
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.last_conv = nn.Conv2d(squeezed, class_expand, 1, bias=False)
        self.hardswish = nn.Hardswish()
        self.dropout = nn.Dropout(0.0 if dropout_prob is None else dropout_prob)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(class_expand, num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        features = self.avg_pool(self.last_second_conv(self.blocks(self.conv(images))))
        embedding = self.flatten(self.dropout(self.hardswish(self.last_conv(features))))
        logits: Tensor = self.fc(embedding)
        return logits


class ConvNorm(nn.Module):
    """Convolution that keeps the size (but for its stride), BatchNorm, perhaps an activation."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: _Activation | None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.Identity() if activation is None else _ACTIVATIONS[activation]()

    def forward(self, features: Tensor) -> Tensor:
        """Returns the activations `[B, out_channels, H / stride, W / stride]`."""
        output: Tensor = self.act(self.bn(self.conv(features)))
        return output


class ResidualUnit(nn.Module):
    """An expansion, a depthwise convolution, perhaps squeeze-and-excitation, a projection; a shortcut where the shapes allow it."""

    def __init__(
        self, in_channels: int, width: int, out_channels: int, kernel: int, *, stride: int, attention: bool, activation: _Activation
    ) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.expand_conv = ConvNorm(in_channels, width, 1, activation=activation)
        self.bottleneck_conv = ConvNorm(width, width, kernel, stride=stride, groups=width, activation=activation)
        self.mid_se = SqueezeExcitation(width, gate=_steep_gate) if attention else nn.Identity()
        self.linear_conv = ConvNorm(width, out_channels, 1, activation=None)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the block's output `[B, out_channels, H / stride, W / stride]`."""
        output: Tensor = self.linear_conv(self.mid_se(self.bottleneck_conv(self.expand_conv(features))))
        return features + output if self.has_shortcut else output


def _steep_gate(features: Tensor) -> Tensor:
    return (0.2 * features + 0.5).clamp(0, 1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_in = module.weight[0].numel() * module.groups  # Paddle does not divide by the groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


MOBILENETS_V3 = {
    f"paddleclas/MobileNetV3_{size}_x{str(scale).replace('.', '_')}": partial(MobileNetV3, size, scale)
    for size in ("small", "large")
    for scale in _SCALES
}
