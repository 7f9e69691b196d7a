"""clip_parameter_norms: limits the norm of each parameter's gradient by itself."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_parameter_norms(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scales down each gradient whose own norm is larger than `max_norm`, to that norm.

    Example:
        >>> small, large = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))
        >>> small.grad, large.grad = torch.tensor([0.5]), torch.tensor([3.0, 4.0])
        >>> clip_parameter_norms([small, large], 1.0)
        >>> [round(norm, 6) for norm in (small.grad.norm().item(), large.grad.norm().item())]
        [0.5, 1.0]
    """
    by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_kind.setdefault((parameter.device, parameter.grad.dtype), []).append(parameter.grad)
    for gradients in by_kind.values():
        norms = torch.stack(torch._foreach_norm(gradients))
        torch._foreach_mul_(gradients, (max_norm / norms).clamp(max=1.0).unbind())
