"""The classifier of a model: which of its modules gives the logits, whoever wrote it, and models without it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

STAND_IN_CLASSES = 1000
"""Classes with which a model is built before its classifier is taken away: those of torchvision's weights."""


def classifier_paths(model: nn.Module) -> tuple[str, ...]:
    """Returns the module paths of the classifier: what `get_classifier()` returns, as timm's models do, or the last layer with weights.

    The last is that with the last weight of two dimensions or more in the order in which the model registers its modules: the
    classifier of all models of torchvision and of ours with one of them.

    Example:
        >>> classifier_paths(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.Dropout()))
        ('3',)
    """
    get_classifier = getattr(model, "get_classifier", None)
    if callable(get_classifier):
        answer = get_classifier()
        modules = [each for each in answer if isinstance(each, nn.Module)] if isinstance(answer, Iterable) else [answer]
        path_of = {id(module): path for path, module in model.named_modules()}
        paths = tuple(path_of[id(module)] for module in modules if path_of.get(id(module)))
        if paths:
            return paths
    weights = [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.dim() >= 2]
    return (weights[-1].rpartition(".")[0],) if weights else ()


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
