"""The checks of `data.augment` and of how images are mixed: what the fields of one transform say together."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.data import Data
from mutual.recipe.document import Recipe
from mutual.recipe.errors import Fault
from mutual.recipe.transforms import RandomErasing, TimmAugment


def check_transforms(recipe: Recipe) -> Iterator[Fault]:
    """Yields what is wrong with the transforms of `recipe`, each of which is right by itself."""
    data = recipe.data
    for index, transform in enumerate(data.augment or ()):
        where = f"data.augment.{index}"
        if isinstance(transform, RandomErasing):
            yield from _check_erasing(transform, where, data.num_channels)
        elif isinstance(transform, TimmAugment):
            yield from _check_channels(transform.fill, f"{where}.fill", data.num_channels)
            if transform.ops is not None and (not transform.config.startswith("rand") or "-t" in transform.config):
                yield Fault(f"{where}.ops", f"is for rand-... without -t; {transform.config} says itself what it draws from")
    yield from _check_mixing(data)


def _check_erasing(transform: RandomErasing, where: str, channels: int) -> Iterator[Fault]:
    is_normal = transform.value in ("normal", "normal_color")
    for key in ("mean", "std"):
        if getattr(transform, key) is not None and not is_normal:
            yield Fault(f"{where}.{key}", "is of normal noise; set value to normal or normal_color, or leave it out")
        yield from _check_channels(getattr(transform, key), f"{where}.{key}", channels)
    if isinstance(transform.value, tuple):
        yield from _check_channels(transform.value, f"{where}.value", channels)


def _check_channels(values: tuple[float, ...] | None, where: str, channels: int) -> Iterator[Fault]:
    if values is not None and len(values) not in (1, channels):
        yield Fault(where, f"has {len(values)} values, the images have {channels} channels")


def _check_mixing(data: Data) -> Iterator[Fault]:
    for key in ("mixup", "cutmix"):
        if getattr(data, f"{key}_p") is not None and getattr(data, key) == 0:
            yield Fault(f"data.{key}_p", f"is a probability of data.{key}, which is off; set that to its alpha")
    total = (data.mixup_p or 0) + (data.cutmix_p or 0)
    if total > 1 + 1e-9:
        yield Fault("data.cutmix_p", f"with data.mixup_p, {total:g} in all; probabilities sum to 1 at most")
