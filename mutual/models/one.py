"""One: several branches over a shared trunk with a gate, the model of ONE (arXiv:1806.04606).

Shapes: B images, K branches, C classes, D features of the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class One(nn.Module):
    """Images `[B, in_channels, H, W]` to the gated ensemble of its branches' logits `[B, num_classes]`.

    `branches.0` .. are the branches' own logits, to be tapped: each learns from the labels and from the ensemble (`sources: self`).
    The gate is a linear layer, BatchNorm and ReLU over the trunk's mean features, and a softmax over the branches.

    Args:
        num_classes: number of classes.
        in_channels: channels of the images.
        branches: number of branches.
        trunk: width of each layer of the trunk (3x3 convolution, BatchNorm, ReLU).
        widths: the same of every branch.
        strides: stride of each layer, those of the trunk first.

    Raises:
        ValueError: widths and strides are not equally many, or there are fewer than two branches.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        branches: int = 3,
        trunk: Sequence[int] = (16, 32),
        widths: Sequence[int] = (64, 64),
        strides: Sequence[int] = (2, 2, 1, 2),
    ) -> None:
        super().__init__()
        if len(trunk) + len(widths) != len(strides):
            raise ValueError(f"{len(trunk)} + {len(widths)} widths and {len(strides)} strides; give one of each for every layer")
        if branches < 2:
            raise ValueError(f"{branches} branches teach each other nothing; take 2 or more")
        self.trunk = _layers(in_channels, trunk, strides[: len(trunk)])
        shared = trunk[-1] if trunk else in_channels
        tail = strides[len(trunk) :]
        self.branches = nn.ModuleList(
            nn.Sequential(_layers(shared, widths, tail), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))
            for _ in range(branches)
        )
        self.gate = nn.Sequential(nn.Linear(shared, branches), nn.BatchNorm1d(branches), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """Returns the ensemble's logits."""
        maps = self.trunk(images)
        logits_KBC = torch.stack([branch(maps) for branch in self.branches])
        weight_BK = torch.softmax(self.gate(maps.mean(dim=(2, 3))), dim=1)
        return torch.einsum("bk,kbc->bc", weight_BK, logits_KBC)


def _layers(channels: int, widths: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, stride in zip(widths, strides, strict=True):
        layers += [nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)
