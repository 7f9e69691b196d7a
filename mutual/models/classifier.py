"""The classifier of a model: which of its modules gives the logits, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


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
