"""small_cnn: a few 3x3 convolutions, for small images and quick experiments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "group", "none"]


class SmallCNN(nn.Module):
    """Images `[B, in_channels, H, W]` to logits `[B, num_classes]`; `blocks1` .. are its layers, to be tapped."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64, 64),
        strides: Sequence[int] = (2, 2, 1, 2),
        norm: Norm = "batch",
    ) -> None:
        """Builds a layer (3x3 convolution, norm, ReLU) for each width and stride, then the mean over the image and a linear classifier.

        Raises:
            ValueError: widths and strides are not equally many, or no such norm.
        """
        super().__init__()
        if len(widths) != len(strides):
            raise ValueError(f"{len(widths)} widths and {len(strides)} strides; give one of each for every layer")
        if norm not in ("batch", "group", "none"):
            raise ValueError(f"norm {norm!r} is none of batch, group, none")
        self._names = [f"blocks{index}" for index in range(1, len(widths) + 1)]
        channels = in_channels
        for name, width, stride in zip(self._names, widths, strides, strict=True):
            convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=norm == "none")
            self.add_module(name, nn.Sequential(convolution, _norm(norm, width), nn.ReLU()))
            channels = width
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        features = images
        for name in self._names:
            features = getattr(self, name)(features)  # torch.export of torch 2.6 does not know get_submodule
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def _norm(norm: Norm, width: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(width)
    return nn.GroupNorm(min(8, width), width) if norm == "group" else nn.Identity()
