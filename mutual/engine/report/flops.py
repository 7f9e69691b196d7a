"""FLOPs of a forward, as torch counts them: products, convolutions and attention; a multiplication with its addition is two."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def count_forward_flops(model: nn.Module, input_shape: tuple[int, int, int]) -> float:
    """Returns the FLOPs of one image's forward of a model in eval mode.

    Example:
        >>> count_forward_flops(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval(), (3, 2, 2))
        120.0
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *input_shape, device=device))
    return float(counter.get_total_flops())
