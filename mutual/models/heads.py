"""Models without their classifier, whose output is then what it was given: an embedding `[B, D]`."""

from __future__ import annotations

from torch import nn

STAND_IN_CLASSES = 1000
"""Classes with which a model is built before its classifier is taken away: those of torchvision's weights."""


def remove_classifier(name: str, model: nn.Module) -> nn.Module:
    """Replaces the classifier of a model of `STAND_IN_CLASSES` classes by the identity, and returns the model.

    The classifier is the one linear layer or convolution with so many outputs. It keeps its path, which can be tapped as before.

    Raises:
        ValueError: there is not exactly one.
    """
    paths = [path for path, module in model.named_modules() if _width(module) == STAND_IN_CLASSES]
    if len(paths) != 1:
        raise ValueError(f"{name} has {len(paths) or 'no'} classifiers of its own; head: none needs exactly one, to leave it out")
    parent, _, child = paths[0].rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def _width(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None
