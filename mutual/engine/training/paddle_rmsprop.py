"""PaddleRMSProp: RMSProp as Paddle computes it, which no optimizer of torch or timm does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import ParamsT


class PaddleRMSProp(torch.optim.Optimizer):
    """v = a v + (1 - a) g g, u = m u + lr g / sqrt(v + eps), w = w - u, where g has the L2 penalty's gradient.

    torch's adds eps to the root and the learning rate outside of u; timm's `rmsproptf` begins with v = 1 in place of 0.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> weight.grad = torch.tensor([3.0])
        >>> PaddleRMSProp([weight], lr=0.1, alpha=0.75, eps=0.0).step()
        >>> round(weight.item(), 6)
        0.8
    """

    def __init__(
        self, params: ParamsT, lr: float = 0.01, alpha: float = 0.95, eps: float = 1e-6, weight_decay: float = 0.0, momentum: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Steps each weight that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state |= {"mean_square": torch.zeros_like(weight), "velocity": torch.zeros_like(weight)}
                gradient = weight.grad.add(weight, alpha=group["weight_decay"])
                mean_square = state["mean_square"].mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
                root = mean_square.add(group["eps"]).sqrt_()
                weight.sub_(state["velocity"].mul_(group["momentum"]).addcdiv_(gradient, root, value=group["lr"]))
