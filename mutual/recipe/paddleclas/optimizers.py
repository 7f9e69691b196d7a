"""convert_optimizer: the section Optimizer as the optimizer and the schedule of a recipe, or of each peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.section import Section


def convert_optimizer(optimizer: Section, models: Sequence[Model]) -> dict[str, Any]:
    """Returns the sections `optimizer` and `schedule` of a recipe; peers of `models` that need their own get them.

    Raises:
        RecipeError: an optimizer or a schedule that nothing here can stand for.
    """
    raise NotImplementedError
