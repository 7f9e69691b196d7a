"""convert_losses: the section Loss as the objectives of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.section import Section


def convert_losses(losses: Section, models: Sequence[Model]) -> list[dict[str, Any]]:
    """Returns the objectives of a recipe.

    Raises:
        RecipeError: a loss that nothing here can stand for.
    """
    raise NotImplementedError
