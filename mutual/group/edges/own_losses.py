"""import_own_losses: a recipe that knows what its losses of the user's own read."""

from __future__ import annotations

from mutual.objectives import import_loss
from mutual.recipe import LossTraits, OwnLoss, Recipe, with_loss_traits


def import_own_losses(recipe: Recipe) -> Recipe:
    """Imports the losses that are the user's own, and returns `recipe` with what they say: whether they read sources, and of which kind.

    Raises:
        RecipeError: one cannot be imported or is no loss, or the recipe and what they say do not fit.
    """
    own = {objective.loss: index for index, objective in enumerate(recipe.objectives) if isinstance(objective, OwnLoss)}
    if all(recipe.traits_of(recipe.objectives[index]) is not None for index in own.values()):
        return recipe
    traits: dict[str, LossTraits] = {}
    for name, index in own.items():
        try:
            traits[name] = import_loss(name).traits
        except ValueError as error:
            raise recipe.error(f"objectives.{index}.loss", str(error)) from error
    return with_loss_traits(recipe, traits)
