"""The checks of `data.sampler` and `data.epoch_size`: what they need of the labels, and of the batch size."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.data import Data, Sampler
from mutual.recipe.document import Recipe
from mutual.recipe.errors import Fault


def check_sampler(recipe: Recipe) -> Iterator[Fault]:
    """Yields what is wrong with the sampler of `recipe`."""
    data = recipe.data
    sampler = data.sampler
    if isinstance(sampler, Sampler) and (sampler.weights is None) == (sampler.repeated is None):
        yield Fault("data.sampler", "takes one of weights (a file) and repeated (images of a class)")
        return
    if data.multi_label and (sampler == "balanced" or data.group_size > 1):
        name = sampler if isinstance(sampler, str) else "repeated"
        yield Fault("data.sampler", f"{name} draws by class, and images with several labels have no single one; weights can be given")
    if sampler != "shuffle" and data.unlabelled is not None:
        yield Fault("data.sampler", "data.unlabelled adds images without class or weight, which only shuffle takes")
    yield from _check_groups(data)


def _check_groups(data: Data) -> Iterator[Fault]:
    """Yields what cuts through the groups of `repeated`, of which micro-batches are made."""
    group = f"{data.group_size} images of a class in data.sampler.repeated"
    if (data.epoch_size or 0) % data.group_size:
        yield Fault("data.epoch_size", f"{data.epoch_size} is no multiple of the {group}")
    if data.group_size > 1 and data.batch_size % (data.group_size * data.crops_per_image):
        crops = f" with {data.crops_per_image} crops each (data.crops_per_image)" if data.crops_per_image > 1 else ""
        yield Fault("data.batch_size", f"{data.batch_size} is no multiple of the {group}{crops}")
