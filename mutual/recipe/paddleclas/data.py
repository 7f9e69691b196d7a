"""convert_data: the section DataLoader as the data of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.section import Section


def convert_data(loaders: Section, settings: Section, models: Sequence[Model]) -> dict[str, Any]:
    """Returns the section `data` of a recipe.

    Raises:
        RecipeError: a data set that nothing here can stand for.
    """
    raise NotImplementedError
