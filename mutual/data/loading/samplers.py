"""Samplers: which images an epoch takes, and in which order, as a pure function of (seed, epoch).

Drawing is by counting: class after class, and image after image of a class, have endless sequences of which an epoch takes the next part.
Where an epoch begins in them is a matter of arithmetic, so that no state is carried from one to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mutual.data.loading.plan import Sampler, epoch_order
from mutual.data.transforms.draws import derive_keys
from mutual.recipe import Data, derive_seed

_Integers = NDArray[np.int64]
_MAX_WEIGHT = 1e12
"""Of an image; sums of millions of them are exact enough in float64."""
_NUM_BLOCKS = 4
"""Of the classes in an epoch of groups; a class stays in its block, so that it does not come again within three quarters of them."""


@dataclass(frozen=True)
class ShuffleSampler:
    """Every image once before any comes again: permutations one after another, of which an epoch takes the next `epoch_size` images."""

    num_images: int
    epoch_size: int
    seed: int
    group_size: int = 1
    substitute_groups: Tensor | None = None
    weights: Tensor | None = None

    def order(self, epoch: int) -> list[int]:
        """Returns the images of `epoch`."""
        begin, end = epoch * self.epoch_size, (epoch + 1) * self.epoch_size
        rounds = range(begin // self.num_images, (end - 1) // self.num_images + 1)
        images = [index for number in rounds for index in epoch_order(self.num_images, seed=self.seed, epoch=number)]
        offset = rounds.start * self.num_images
        return images[begin - offset : end - offset]


class BalancedSampler:
    """Every class equally often, to within one group over any number of epochs; within a class every image once before any comes again.

    A group is `group_size` images of a class next to one another, different ones where the class has as many. Where this is not 1, classes
    take turns: of C classes none comes again within the next 3/4 C groups (an epoch's last ones aside). Otherwise the epoch is shuffled.

    Args:
        labels: the class of each image; every image has one.
        epoch_size: images in an epoch, a multiple of `group_size`.
        seed: the recipe's seed.
        group_size: images in a group.
    """

    def __init__(self, labels: Tensor, *, epoch_size: int, seed: int, group_size: int = 1) -> None:
        self.num_images = len(labels)
        self.epoch_size = epoch_size
        self.group_size = group_size
        self.substitute_groups = labels
        self.weights = None
        self._seed = seed
        classes = labels.numpy()
        self._members: _Integers = np.argsort(classes, kind="stable")  # the images, class by class
        self._sizes: _Integers = np.unique(classes, return_counts=True)[1].astype(np.int64)
        self._starts: _Integers = np.cumsum(self._sizes) - self._sizes
        self._round_lengths: _Integers = -(-self._sizes // group_size)  # groups in which a class shows each of its images

    def order(self, epoch: int) -> list[int]:
        """Returns the images of `epoch`."""
        num_groups, num_classes = self.epoch_size // self.group_size, len(self._sizes)
        numbers = np.arange(num_classes)
        begins, ends = ((slot + num_classes - 1 - numbers) // num_classes for slot in (epoch * num_groups, (epoch + 1) * num_groups))
        class_of_group, turn_of_group = _ranges(ends - begins)
        images_GK = self._images(class_of_group, turn_of_group + begins[class_of_group], begins, ends)
        if self.group_size == 1:
            shuffled = epoch_order(num_groups, seed=self._seed, epoch=epoch)
        else:
            shuffled = self._arranged(class_of_group, turn_of_group, epoch).tolist()
        order: list[int] = images_GK[shuffled].ravel().tolist()
        return order

    def _images(self, class_of_group: _Integers, groups: _Integers, begins: _Integers, ends: _Integers) -> _Integers:
        """Returns the images `[G, K]` of groups, each known by its class and its number among all the groups of this class.

        Args:
            class_of_group: the class of each.
            groups: the number of each.
            begins: by class the first number.
            ends: by class the last number, exclusive.
        """
        first_rounds = begins // self._round_lengths
        num_rounds = np.where(ends > begins, (ends - 1) // self._round_lengths + 1 - first_rounds, 0)
        class_of_round, round_in_class = _ranges(num_rounds)
        sizes = self._sizes[class_of_round]
        round_of_image, rank = _ranges(sizes)
        images = self._members[self._starts[class_of_round[round_of_image]] + rank]
        key = np.array([derive_seed(self._seed, "images of a class")], dtype=np.uint64)
        keys = derive_keys(derive_keys(key, (first_rounds[class_of_round] + round_in_class)[round_of_image]), images)
        images = images[np.lexsort((keys, round_of_image))]  # a permutation of the class in each round
        round_starts = np.cumsum(sizes) - sizes
        round_of_group = (np.cumsum(num_rounds) - num_rounds - first_rounds)[class_of_group] + groups // self._round_lengths[class_of_group]
        first = (groups % self._round_lengths[class_of_group]) * self.group_size
        # a round's last group is filled up with the round's first images, which are others
        places_GK = (first[:, None] + np.arange(self.group_size)) % self._sizes[class_of_group][:, None]
        return images[round_starts[round_of_group][:, None] + places_GK]

    def _arranged(self, class_of_group: _Integers, turn_of_group: _Integers, epoch: int) -> _Integers:
        """Returns the groups in the epoch's order: turn by turn, and in each turn every class once, in an order of its own."""
        num_classes = len(self._sizes)
        ranks = np.array(epoch_order(num_classes, seed=self._seed, epoch=epoch))
        block_size = max(1, num_classes // _NUM_BLOCKS)
        key = np.array([derive_seed(self._seed, "classes in turn", epoch)], dtype=np.uint64)
        keys = derive_keys(derive_keys(key, turn_of_group), class_of_group)
        return np.lexsort((keys, (ranks // block_size)[class_of_group], turn_of_group))


class WeightedSampler:
    """Images as often as their weights say: of what is expected each is drawn the whole number of times, and the rest by chance.

    This is systematic sampling, of less variance than draws that know nothing of each other, with the same expectation.

    Args:
        weights: of each image, in float64, not negative and not all 0; an image without weight is never drawn.
        epoch_size: images in an epoch.
        seed: the recipe's seed.
    """

    group_size = 1

    def __init__(self, weights: Tensor, *, epoch_size: int, seed: int) -> None:
        self.num_images = len(weights)
        self.epoch_size = epoch_size
        self.substitute_groups = (weights > 0).long()
        self.weights = weights
        self._seed = seed

    def order(self, epoch: int) -> list[int]:
        """Returns the images of `epoch`."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "weighted order", epoch))
        images = torch.randperm(self.num_images, generator=generator).numpy()
        offset = torch.rand(1, generator=generator, dtype=torch.float64).item()
        weights = self.weights.numpy()[images]
        images, ends = images[weights > 0], np.cumsum(weights[weights > 0])
        points = (np.arange(self.epoch_size) + offset) * (ends[-1] / self.epoch_size)
        drawn = images[np.searchsorted(ends, points, side="right").clip(max=len(images) - 1)]
        order: list[int] = drawn[epoch_order(self.epoch_size, seed=self._seed, epoch=epoch)].tolist()
        return order


def build_sampler(spec: Data, labels: Tensor, weights: Tensor | None, *, seed: int) -> Sampler | None:
    """Returns the sampler of a recipe's data section; None: each image once an epoch.

    Args:
        spec: the data section.
        labels: those of the training images.
        weights: of each of these, where the sampler draws by weights.
        seed: the recipe's seed.
    """
    num_images = len(labels)
    if weights is not None:
        return WeightedSampler(weights, epoch_size=spec.epoch_size or num_images, seed=seed)
    if spec.sampler == "shuffle":
        return None if spec.epoch_size is None else ShuffleSampler(num_images, spec.epoch_size, seed)
    group_size = spec.group_size
    epoch_size = spec.epoch_size or max(1, num_images // group_size) * group_size
    return BalancedSampler(labels, epoch_size=epoch_size, seed=seed, group_size=group_size)


def occurrences(order: Sequence[int]) -> list[int]:
    """Returns for each position of an epoch's order how often its image has come before.

    Example:
        >>> occurrences([3, 1, 3, 3, 1])
        [0, 0, 1, 2, 1]
    """
    images = np.asarray(order)
    by_image = np.argsort(images, kind="stable")
    is_first = np.diff(images[by_image], prepend=-1) != 0
    positions = np.arange(len(images))
    counts = np.empty_like(positions)
    counts[by_image] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    found: list[int] = counts.tolist()
    return found


def read_weights(path: str, labels: Tensor, *, num_classes: int) -> Tensor:
    """Returns the weight of each image, float64, from a text file with a number a line: one for each image, or one for each class.

    Raises:
        ValueError: it cannot be read, or holds something else; one line says where.
    """
    if Path(path).exists() and not Path(path).is_file():  # reading a pipe may never return
        raise ValueError(f"sampler.weights: {path} is no file")
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = [(number, line.strip()) for number, line in enumerate(file, start=1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"sampler.weights: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    weights = [_weight(path, number, text) for number, text in lines]
    per_class = labels.dim() == 1 and len(weights) == num_classes
    if len(weights) != len(labels) and not per_class:
        one_a_class = "" if labels.dim() == 2 else f" or {num_classes:,} classes"
        raise ValueError(f"sampler.weights: {path} has {len(weights):,} weights for {len(labels):,} training images{one_a_class}")
    values = torch.tensor(weights, dtype=torch.float64)
    values = values if len(weights) == len(labels) else values[labels]
    if not values.any():
        raise ValueError(f"sampler.weights: {path} gives every training image the weight 0, so that none could be drawn")
    return values


def _weight(path: str, number: int, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= _MAX_WEIGHT:
        raise ValueError(f"sampler.weights: {path}, line {number}: {text[:40]!r} is no finite number from 0 to {_MAX_WEIGHT:g}")
    return weight


def _ranges(lengths: _Integers) -> tuple[_Integers, _Integers]:
    """Returns for the entries of so many ranges, one behind the other, the number of its range and its place in it."""
    of_range = np.repeat(np.arange(len(lengths)), lengths)
    return of_range, np.arange(len(of_range)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
