"""FLOPs of one image's forward. Needs nothing of a training: exports and reports count by it, too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_forward_flops(model: nn.Module, input_shape: Sequence[int]) -> float:
    """Returns the FLOPs of one image's forward, in eval mode; the model stays as it is.

    Args:
        model: takes images `[B, C, H, W]`.
        input_shape: (channels, height, width) of what it reads.

    Example:
        >>> count_forward_flops(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2))
        120.0
    """
    modes = {module: module.training for module in model.modules()}
    first = next((tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point()), torch.zeros(0))
    images = torch.zeros(1, *input_shape, device=first.device, dtype=first.dtype)
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(images)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return float(counter.get_total_flops())
