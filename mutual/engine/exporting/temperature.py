"""divide_logits: a temperature put into a model, in the weights of its classifier where these alone give the logits."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from mutual.models import classifier_paths

_TOLERANCE = 1e-5
"""Largest difference of logits, relative to the largest logit, that float32 weights divided in place of the logits may make."""


class Divided(nn.Module):
    """A model's logits, divided by a temperature."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        logits: Tensor = self.model(images) / self.temperature
        return logits


def divide_logits(model: nn.Module, temperature: float, images: Tensor) -> nn.Module:
    """Returns a model whose logits are those of `model` divided by `temperature`.

    Weight and bias of its classifier are divided where it is one linear layer or convolution that gives the logits, so that the tensors
    keep their names and nothing is computed besides; elsewhere the result is a `Divided`.

    Args:
        model: in eval mode; it is not changed.
        temperature: a positive number.
        images: on which both are compared.

    Example:
        >>> halved = divide_logits(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), 2.0, torch.rand(3, 1, 2, 2))
        >>> isinstance(halved, Divided)
        False
    """
    divided = Divided(model, temperature)
    paths = classifier_paths(model)
    scaled = deepcopy(model)
    classifier = scaled.get_submodule(paths[0]) if len(paths) == 1 else None
    if not isinstance(classifier, nn.Linear | nn.Conv2d):
        return divided
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.div_(temperature)
        expected, actual = divided(images), scaled(images)
    scale = float(expected.abs().max().clamp(min=1e-12))
    return scaled if float((actual - expected).abs().max()) <= _TOLERANCE * scale else divided
