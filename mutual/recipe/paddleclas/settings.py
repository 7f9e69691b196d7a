"""convert_settings: the sections Global, AMP, EMA, Metric and Infer as the rest of a recipe."""

from __future__ import annotations

from typing import Any

from mutual.recipe.paddleclas.section import Section


def convert_settings(document: dict[str, Any], root: Section, settings: Section) -> None:
    """Adds to a recipe's document what these sections say.

    Args:
        document: with its data, peers, objectives and optimizers.
        root: the whole config; AMP, EMA, Metric and Infer are there to be taken.
        settings: its section Global.

    Raises:
        RecipeError: a value of another type than theirs.
    """
    raise NotImplementedError
