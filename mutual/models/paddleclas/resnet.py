"""ResNet (arXiv:1512.03385) and ResNet-D (`_vd`, arXiv:1812.01187) as PaddleClas builds them, with its names of modules.

They differ from torchvision's: the first block of 18 and 34 layers has a projection as well, and `_vd` has a stem of three convolutions,
and 2x2 average pooling before the 1x1 convolution of a projection with a stride.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

# number of blocks in each stage
_BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 12, 48, 3)}
_WIDTHS = (64, 128, 256, 512)


class ResNet(nn.Module):
    """Images `[B, in_channels, H, W]` to logits `[B, num_classes]`; `blocks.0` .. are its blocks, those of all stages in a row."""

    def __init__(
        self,
        depth: int,
        *,
        vd: bool,
        num_classes: int,
        in_channels: int = 3,
        stride_list: Sequence[int] = (2, 2, 2, 2, 2),
        max_pool: bool = True,
        stem_act: Literal["relu"] | None = "relu",
        use_first_short_conv: bool = True,
    ) -> None:
        """Builds the network with its initial weights (convolutions N(0, 2 / fan_in), classifier uniform in 1 / sqrt(fan_in)).

        Args:
            depth: layers: 18, 34, 50, 101, 152 or 200.
            vd: the form of `_vd`.
            num_classes: C.
            in_channels: 1 grey, 3 colour.
            stride_list: of the stem, of the max pooling (or of the first block where there is none), and of the stages 2 to 4.
            max_pool: the stem ends with 3x3 max pooling.
            stem_act: relu, or None for a stem without.
            use_first_short_conv: the first block has a projection even where its shapes need none.

        Raises:
            ValueError: not five strides, or another activation.
        """
        super().__init__()
        if len(stride_list) != 5:
            raise ValueError(f"stride_list {list(stride_list)} has {len(stride_list)} strides; it needs five: stem, pooling, stages 2 to 4")
        if stem_act not in ("relu", None):
            raise ValueError(f"stem_act {stem_act!r} is neither relu nor null")
        stem_stride, first_stride, *other_strides = stride_list
        layer = partial(ConvNorm, relu=stem_act == "relu")
        if vd:
            widths = (in_channels, 32, 32, 64)
            self.stem = nn.Sequential(*(layer(widths[i], widths[i + 1], 3, stride=stem_stride if i == 0 else 1) for i in range(3)))
        else:
            self.stem = nn.Sequential(layer(in_channels, 64, 7, stride=stem_stride))
        self.max_pool = nn.MaxPool2d(3, stride=first_stride, padding=1) if max_pool else nn.Identity()
        block: type[BasicBlock | BottleneckBlock] = BasicBlock if depth in _BASIC else BottleneckBlock
        channels = 64
        blocks: list[nn.Module] = []
        strides = (1 if max_pool else first_stride, *other_strides)
        for stage, (number, width, stride) in enumerate(zip({**_BASIC, **_BOTTLENECK}[depth], _WIDTHS, strides, strict=True)):
            for index in range(number):
                projects = index == 0 and (stage > 0 or use_first_short_conv)
                pools = vd and bool(blocks)
                blocks.append(block(channels, width, stride=stride if index == 0 else 1, projects=projects, pools=pools))
                channels = width * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        features = self.blocks(self.max_pool(self.stem(images)))
        logits: Tensor = self.fc(self.flatten(self.avg_pool(features)))
        return logits


class ConvNorm(nn.Module):
    """Perhaps 2x2 average pooling (then that has the stride), a convolution that keeps the size, BatchNorm, perhaps ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, pools: bool = False, relu: bool) -> None:
        super().__init__()
        self.avg_pool = AveragePool(stride) if pools else nn.Identity()
        stride = 1 if pools else stride
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Returns the layer's output `[B, out_channels, H / stride, W / stride]`, rounded up."""
        output: Tensor = self.relu(self.bn(self.conv(self.avg_pool(features))))
        return output


class AveragePool(nn.Module):
    """Means of 2x2 pixels; at the right and the lower edge those of what is there, so that the size is the input's / stride, rounded up."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Returns the means."""
        if self.stride == 1:  # the mean of repeated edge pixels is that of those which are there
            features = F.pad(features, (0, 1, 0, 1), mode="replicate")
        return F.avg_pool2d(features, 2, stride=self.stride, ceil_mode=True)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int, projects: bool, pools: bool) -> None:
        super().__init__()
        self.conv0 = ConvNorm(in_channels, width, 3, stride=stride, relu=True)
        self.conv1 = ConvNorm(width, width, 3, relu=False)
        self.short = ConvNorm(in_channels, width, 1, stride=stride, pools=pools, relu=False) if projects else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Returns the block's output."""
        output: Tensor = self.relu(self.conv1(self.conv0(features)) + self.short(features))
        return output


class BottleneckBlock(nn.Module):
    """A 1x1, a 3x3 (with the stride) and a 1x1 convolution, and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int, projects: bool, pools: bool) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv0 = ConvNorm(in_channels, width, 1, relu=True)
        self.conv1 = ConvNorm(width, width, 3, stride=stride, relu=True)
        self.conv2 = ConvNorm(width, out_channels, 1, relu=False)
        self.short = ConvNorm(in_channels, out_channels, 1, stride=stride, pools=pools, relu=False) if projects else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Returns the block's output."""
        output: Tensor = self.relu(self.conv2(self.conv1(self.conv0(features))) + self.short(features))
        return output


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
    elif isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.in_features)
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)


RESNETS = {
    f"paddleclas/ResNet{depth}{'_vd' if vd else ''}": partial(ResNet, depth, vd=vd)
    for depth in (*_BASIC, *_BOTTLENECK)
    for vd in (False, True)
    if vd or depth != 200
}
