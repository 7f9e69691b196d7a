"""Online and mutual learning of image classifiers: peers that train together, each learning from labels and from its peers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine import Callback, Prediction, RunResult, TrainingState, fit, load_peer, predict
    from mutual.models import create_model
    from mutual.objectives import build_loss
    from mutual.recipe import Recipe, RecipeError, load_recipe

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "Prediction",
    "Recipe",
    "RecipeError",
    "RunResult",
    "TrainingState",
    "build_loss",
    "create_model",
    "fit",
    "load_peer",
    "load_recipe",
    "predict",
]

_get_attribute, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.recipe": ("Recipe", "RecipeError", "load_recipe"),
        "mutual.objectives": ("build_loss",),
        "mutual.models": ("create_model",),
        "mutual.engine": ("Callback", "Prediction", "RunResult", "TrainingState", "fit", "load_peer"),
    },
)


def __getattr__(name: str) -> Any:
    if name == "predict":  # the module that is the command, and can be called
        return import_module("mutual.predict")
    return _get_attribute(name)
