"""Online and mutual learning of image classifiers: peers that train together, each learning from labels and from its peers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine import Callback, NonFiniteLossError, Prediction, RunResult, StoppedError, TrainingState, fit, load_peer, predict
    from mutual.group import DistillationLoss, Taps
    from mutual.models import create_model
    from mutual.objectives import build_loss, loss
    from mutual.recipe import InputError, Recipe, RecipeError, RunError, load_recipe

__version__ = "0.2.0"
__all__ = [
    "Callback",
    "DistillationLoss",
    "InputError",
    "NonFiniteLossError",
    "Prediction",
    "Recipe",
    "RecipeError",
    "RunError",
    "RunResult",
    "StoppedError",
    "Taps",
    "TrainingState",
    "build_loss",
    "create_model",
    "fit",
    "load_peer",
    "load_recipe",
    "loss",
    "predict",
]

_get_attribute, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.recipe": ("InputError", "Recipe", "RecipeError", "RunError", "load_recipe"),
        "mutual.objectives": ("build_loss", "loss"),
        "mutual.group": ("DistillationLoss", "Taps"),
        "mutual.models": ("create_model",),
        "mutual.engine": ("Callback", "NonFiniteLossError", "Prediction", "RunResult", "StoppedError", "TrainingState", "fit", "load_peer"),
    },
)


def __getattr__(name: str) -> Any:
    if name == "predict":  # the module that is the command, and can be called
        return import_module("mutual.predict")
    return _get_attribute(name)
