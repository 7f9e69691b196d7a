"""FLOPs of an update, as torch's FlopCounterMode counts them: what makes compute comparable between recipes.

A multiplication with its addition is two. Counted are matrix products, convolutions and attention, forward and backward; what works element
by element, normalises or pools is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mutual.data import Batch, EpochPlan, Window
from mutual.engine.costs.measuring import measured_training
from mutual.engine.training import Training
from mutual.recipe import Recipe

_FIRST_SIZES = (2, 4)
"""Images of the updates that are counted; BatchNorm asks for two."""
_SIZES = (2, 3, 4, 5)
"""Of those that are counted where these are not proportional."""
_CHECKED_SIZE = 6
"""The FLOPs of an update of so many images tell whether the polynomial through the others is theirs."""


@dataclass(frozen=True)
class UpdateFlops:
    """FLOPs of what a recipe computes in training, without evaluations and without the training of its teachers.

    Attributes:
        flops: of all epochs.
        images: training images that it sees over all epochs, each as often as it is seen.
        epochs: how many these are.
    """

    flops: float
    images: int
    epochs: int


def count_update_flops(recipe: Recipe, *, epochs: int | None = None) -> UpdateFlops:
    """Counts the real update of a few made-up images, from which that of a whole batch follows.

    It is a multiple of the images, but for losses that compare the images of a batch with one another, where it is a polynomial.

    Args:
        recipe: what is trained.
        epochs: if given, in place of the recipe's.

    Raises:
        RecipeError: the data, a model, an objective or an optimizer does not fit.
    """
    epochs = recipe.train.epochs if epochs is None else epochs
    with measured_training(recipe) as (training, device):
        plan = training.data.epoch_plan(world_size=1, accumulate=recipe.train.accumulate)
        sizes = _micro_batch_sizes(plan)
        of_size = _by_size(lambda size: _count_update(recipe, training, size), list(sizes))
        per_epoch = sum(number * of_size(size) for size, number in sizes.items())
        flops = epochs * per_epoch
        for name, store in recipe.stores.items():
            seen = epochs * plan.num_samples
            computed = seen if store.views == "epoch" else min(seen, store.views * plan.num_images)
            flops -= (seen - computed) * _count_frozen(training, name, device)
    return UpdateFlops(float(flops), epochs * plan.num_samples, epochs)


def _micro_batch_sizes(plan: EpochPlan) -> Counter[int]:
    """Returns by its number of images how many micro-batches of an epoch there are; all windows but the last are alike."""
    sizes: Counter[int] = Counter()
    for window, number in ((0, plan.num_windows - 1), (plan.num_windows - 1, 1)):
        for size in plan.micro_sizes(window) if number else ():
            sizes[size] += number
    return sizes


def _by_size(count: Callable[[int], int], sizes: Sequence[int]) -> Callable[[int], Fraction | int]:
    """Returns the FLOPs of a micro-batch as a function of its number of images.

    Args:
        count: counts them.
        sizes: the numbers that are asked for, which are counted themselves where they follow no polynomial of degree 3.
    """
    few = {size: count(size) for size in _FIRST_SIZES}
    if 2 * few[2] == few[4]:
        return lambda size: Fraction(few[2] * size, 2)
    few = {size: few[size] if size in few else count(size) for size in _SIZES}
    if _interpolated(few, _CHECKED_SIZE) == count(_CHECKED_SIZE):
        return lambda size: _interpolated(few, size)
    whole = {size: count(size) for size in sizes}
    return lambda size: whole[size]


def _interpolated(values: dict[int, int], at: int) -> Fraction:
    """Returns the value at `at` of the polynomial through `values`, by Lagrange's formula, which is exact in fractions."""
    total = Fraction(0)
    for size, value in values.items():
        term = Fraction(value)
        for other in values:
            term *= Fraction(at - other, size - other) if other != size else 1
        total += term
    return total


def _count_update(recipe: Recipe, training: Training, size: int) -> int:
    """Counts an update of one micro-batch of `size` images, whatever they show."""
    info, shape = training.data.info, training.data.loaded_shape
    views = (len(recipe.peers),) if recipe.data.views == "per_peer" else ()
    images = torch.randint(256, (*views, size, *shape), dtype=torch.uint8)
    classes = torch.arange(size) % info.num_classes
    labels = nn.functional.one_hot(classes, info.num_classes).float() if info.multi_label else classes
    batch = Batch(images, labels, num_valid=size, global_batch_size=size)
    with FlopCounterMode(display=False) as counter:
        training.train_step(Window(size, [batch], [size]), 0, measure=False)
    return int(counter.get_total_flops())


def _count_frozen(training: Training, name: str, device: torch.device) -> Fraction:
    """Returns the FLOPs of one image's forward in a frozen peer, without what its learners compute."""
    images = torch.zeros(2, *training.data.loaded_shape, dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter:
        training.group.forward_peer(name, images, seed=0)
    return Fraction(counter.get_total_flops(), 2)
