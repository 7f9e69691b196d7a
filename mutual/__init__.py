"""Online and mutual learning of image classifiers: peers that train together, each learning from labels and from its peers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mutual.engine.fit import RunResult, fit, load_peer
    from mutual.models import create_model
    from mutual.objectives import build_loss
    from mutual.recipe import Recipe, RecipeError, load_recipe

__version__ = "0.1.0"
__all__ = [
    "Recipe",
    "RecipeError",
    "RunResult",
    "build_loss",
    "create_model",
    "fit",
    "load_peer",
    "load_recipe",
]

_HOMES = {
    "Recipe": "mutual.recipe",
    "RecipeError": "mutual.recipe",
    "load_recipe": "mutual.recipe",
    "build_loss": "mutual.objectives",
    "create_model": "mutual.models",
    "RunResult": "mutual.engine",
    "fit": "mutual.engine",
    "load_peer": "mutual.engine",
}


def __getattr__(name: str) -> Any:  # lazy, so that `mutual.recipe` can be used without loading torch
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mutual' has no attribute {name!r}")
