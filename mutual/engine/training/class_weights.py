"""Numbers of the classes in a loss, as the training images have the classes: weights of mean 1 over the images, or fractions of them."""

from __future__ import annotations

from mutual.data import DataModule
from mutual.recipe import CLASS_WEIGHTS, Recipe

_DIGITS = 7
"""Significant digits of a weight, so that a recipe that says them is read as the same numbers."""
_SAME_MEAN = 1e-6
"""Weights whose mean differs from 1 by no more are taken as they are: those that a run wrote down have been rounded."""


def resolve_class_weights(recipe: Recipe, data: DataModule, *, max_numbers: int | None = None) -> Recipe:
    """Returns the recipe with the numbers by which losses multiply the terms of the classes, or from which they compute it.

    Fractions are taken as they are. Weights have a mean of 1 over the training images, which leaves the size of the loss, and so the
    learning rate, what it is; it is taken over all of them and not over a batch, so that a batch may be cut into micro-batches and shards.

    Args:
        recipe: what is trained.
        data: its images.
        max_numbers: objectives keep what they say once there are more numbers than these.

    Raises:
        RecipeError: there are not as many numbers as classes, or every class that has images weighs 0.
    """
    resolved: dict[int, list[float]] = {}
    room = max_numbers
    counts = data.class_counts if recipe.class_weights else []
    for index, given in recipe.class_weights.items():
        if not isinstance(given, str) and len(given) != len(counts):
            what = "fractions" if recipe.takes_class_fractions(index) else "weights"
            raise recipe.error(
                _where(recipe, index), f"{len(given):,} {what}, and the data have {len(counts):,} classes; give one for each"
            )
        if recipe.takes_class_fractions(index):
            numbers = [count / data.info.num_train for count in counts] if isinstance(given, str) else given
        else:
            numbers = _of_mean_one(recipe, index, _balanced(counts) if isinstance(given, str) else given, counts)
        if room is None or len(numbers) <= room:
            room = None if room is None else room - len(numbers)
            resolved[index] = [float(f"{number:.{_DIGITS}g}") for number in numbers]
    return recipe.with_class_weights(resolved)


def _where(recipe: Recipe, index: int) -> str:
    return f"objectives.{index}.{CLASS_WEIGHTS[recipe.objectives[index].loss]}"


def _of_mean_one(recipe: Recipe, index: int, weights: list[float], counts: list[int]) -> list[float]:
    mean = sum(weight * count for weight, count in zip(weights, counts, strict=True)) / sum(counts)
    if mean == 0:
        raise recipe.error(_where(recipe, index), "every class that has training images weighs 0, so that nothing is learned")
    factor = 1 if abs(mean - 1) <= _SAME_MEAN else 1 / mean
    return [weight * factor for weight in weights]


def _balanced(counts: list[int]) -> list[float]:
    """Returns a weight for each class, in inverse proportion to its images; 1 for one without images."""
    num_images, num_classes = sum(counts), sum(count > 0 for count in counts)
    return [num_images / (num_classes * count) if count else 1.0 for count in counts]
