"""build_loss: a loss by its name, as a module `loss(learner, source, labels) -> scalar`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mutual.objectives import feature, relation, response
from mutual.recipe import OBJECTIVES, check_section, did_you_mean


@dataclass(frozen=True)
class Definition:
    """What a loss reads besides the learner's output, and whether the two outputs must have one shape."""

    function: Callable[..., Tensor]
    reads_source: bool = True
    reads_labels: bool = False
    same_shape: bool = True


LOSSES: dict[str, Definition] = {
    "cross_entropy": Definition(response.cross_entropy, reads_source=False, reads_labels=True),
    "kd": Definition(response.kd),
    "soft_label": Definition(response.soft_label),
    "dml": Definition(response.dml),
    "dkd": Definition(response.dkd, reads_labels=True),
    "dist": Definition(response.dist),
    "wsl": Definition(response.wsl, reads_labels=True),
    "l1": Definition(feature.l1),
    "l2": Definition(feature.l2),
    "smooth_l1": Definition(feature.smooth_l1),
    "cosine": Definition(feature.cosine),
    "rkd_distance": Definition(relation.rkd_distance, same_shape=False),
    "rkd_angle": Definition(relation.rkd_angle, same_shape=False),
}


class Loss(nn.Module):
    """One end-to-end rule for all losses: the source is detached, and the mathematics runs in float32 at least."""

    def __init__(self, definition: Definition, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.definition = definition
        self.arguments = arguments

    def forward(self, learner: Tensor, source: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Returns the scalar loss of `learner` `[B, ...]`; what the loss does not read may be None."""
        inputs = [_at_least_float32(learner)]
        if self.definition.reads_source:
            assert source is not None, "this loss reads a source"
            inputs.append(_at_least_float32(source.detach()))
        if self.definition.reads_labels:
            assert labels is not None, "this loss reads labels"
            inputs.append(labels)
        with torch.autocast(learner.device.type, enabled=False):
            return self.definition.function(*inputs, **self.arguments)

    def extra_repr(self) -> str:
        """Returns what `print(loss)` shows."""
        return ", ".join([self.definition.function.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])


def build_loss(name: str, **arguments: Any) -> Loss:
    """Returns the loss called `name` in recipes; `arguments` are those of its section in a recipe.

    Raises:
        ValueError: no such loss, no such argument, or a value out of range; one line says which.
    """
    if name not in LOSSES:
        raise ValueError(f"{name!r} is no loss{did_you_mean(name, LOSSES)}")
    section = check_section(OBJECTIVES[name], {"loss": name, **arguments})
    return Loss(LOSSES[name], section.loss_arguments())


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
