"""The checks of losses of the user's own, and of what they say of themselves once their modules have been imported."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.document import Recipe
from mutual.recipe.errors import Fault
from mutual.recipe.own_loss import OwnLoss


def check_own_losses(recipe: Recipe) -> Iterator[Fault]:
    """Yields what is written of sources where a loss has been found to read none."""
    for index, objective in enumerate(recipe.objectives):
        traits = recipe.traits_of(objective)
        if not isinstance(objective, OwnLoss) or traits is None or traits.reads_source:
            continue
        for key in ("sources", "source_at", "ensemble"):
            if getattr(objective, key) is not None:
                yield Fault(f"objectives.{index}.{key}", f"{objective.loss} reads no source; take this away, or let it read `source`")
        if objective.gate == "correct":
            yield Fault(f"objectives.{index}.gate", f"'correct' asks whether a source is right, and {objective.loss} has no source")
