"""EpochPlan: which samples each rank computes in each micro-batch, as a pure function of (seed, epoch).

A window is what one update learns from: the next W * b * k samples of the epoch's order (W ranks, batch size b, k micro-batches), the last
one what is left. It is split evenly into micro-batches, and these evenly into shards, so that everyone has the same number of micro-batches
in every window. Where every rank trains every peer there are W shards; a peer that has ranks of its own has as many shards as these.
The order is a permutation, or what a Sampler makes of it, in which an image may occur several times.
Of each image there may be several crops, each a sample, which stand next to one another in the order.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mutual.recipe import derive_seed


class Sampler(Protocol):
    """Which images an epoch takes, and in which order, as a pure function of its number."""

    @property
    def num_images(self) -> int:
        """Images that there are."""
        ...

    @property
    def epoch_size(self) -> int:
        """Images of an epoch, an image that occurs several times counted each time."""
        ...

    @property
    def group_size(self) -> int:
        """So many neighbours in the order belong together; `epoch_size` is a multiple of it."""
        ...

    @property
    def substitute_groups(self) -> Tensor | None:
        """For each image the number of those among which a substitute for it is looked for first; None: all alike."""
        ...

    @property
    def weights(self) -> Tensor | None:
        """Those of the images, where it draws by weights."""
        ...

    def order(self, epoch: int) -> list[int]:
        """Returns the indices of the images of `epoch`."""
        ...


@dataclass(frozen=True)
class MicroBatchSlice:
    """One shard's part of a micro-batch: positions `[begin, end)` in the epoch's order.

    Attributes:
        begin: first position.
        end: last position, exclusive.
        padding_index: the position that is loaded as padding where the slice is empty.
        global_batch_size: samples of the micro-batch over all shards.
    """

    begin: int
    end: int
    padding_index: int
    global_batch_size: int


@dataclass(frozen=True)
class EpochPlan:
    """The windows of an epoch of `num_samples` samples: `crops` of each image in the order of `sampler`, if it is given."""

    num_samples: int
    batch_size: int
    world_size: int
    accumulate: int
    seed: int
    sampler: Sampler | None = None
    crops: int = 1

    @property
    def num_images(self) -> int:
        """Images of which an epoch takes some, or some of them several times."""
        return self.num_samples // self.crops if self.sampler is None else self.sampler.num_images

    @property
    def window_size(self) -> int:
        """Samples of a full window, over all ranks."""
        return self.batch_size * self.world_size * self.accumulate

    @property
    def num_windows(self) -> int:
        """Windows, and so updates, of an epoch."""
        return math.ceil(self.num_samples / self.window_size)

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of an epoch, of which every rank has as many."""
        whole, rest = divmod(self.num_samples, self.window_size)
        return whole * self.accumulate + math.ceil(rest / (self.batch_size * self.world_size))

    def order(self, epoch: int) -> Sequence[int]:
        """Returns the image of each of the epoch's samples: of a permutation, or of what the sampler says, each for each of its crops."""
        images = epoch_order(self.num_images, seed=self.seed, epoch=epoch) if self.sampler is None else self.sampler.order(epoch)
        return repeated(images, self.crops)

    def partner(self, position: int) -> int:
        """Returns the position that is mixed with this one: the same crop of the image beside it, or itself where there is none."""
        image, crop = divmod(position, self.crops)
        partner = (image ^ 1) * self.crops + crop
        return partner if partner < self.num_samples else position

    def pair(self, position: int) -> int:
        """Returns the number that a position and its partner have in common, and no others of the epoch."""
        image, crop = divmod(position, self.crops)
        return image // 2 * self.crops + crop

    @property
    def _group_size(self) -> int:
        return 1 if self.sampler is None or self.sampler.group_size == 1 else self.sampler.group_size * self.crops

    def size(self, window: int) -> int:
        """Returns how many samples the window has over all ranks."""
        return min(self.window_size, self.num_samples - window * self.window_size)

    def micro_sizes(self, window: int) -> list[int]:
        """Returns how many samples each micro-batch of the window has over all ranks."""
        size, group_size = self.size(window), self._group_size
        num_micro_batches = math.ceil(size / (self.batch_size * self.world_size))
        bounds = [shard_bounds(size // group_size, index, num_micro_batches) for index in range(num_micro_batches)]
        return [(end - begin) * group_size for begin, end in bounds]

    def micro_batches(self, window: int, shard: tuple[int, int]) -> list[MicroBatchSlice]:
        """Returns one shard's micro-batches of a window; `shard` is its index, and the number of shards."""
        start = window * self.window_size
        slices = []
        begin = start
        for size in self.micro_sizes(window):
            first, last = shard_bounds(size, *shard)
            slices.append(MicroBatchSlice(begin + first, begin + last, padding_index=start, global_batch_size=size))
            begin += size
        return slices


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> list[int]:
    """Returns the permutation of the sample indices in which an epoch takes them."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    order: list[int] = torch.randperm(num_samples, generator=generator).tolist()
    return order


def repeated(order: Sequence[int], times: int) -> Sequence[int]:
    """Returns the order with each of its images `times` times, one behind the other; as an array, for a list of a million takes 46 MB."""
    return array("q", np.repeat(np.asarray(order, np.int64), times).tobytes())


def shard_bounds(size: int, shard_index: int, num_shards: int) -> tuple[int, int]:
    """Returns where shard number `shard_index` begins and ends when `size` samples are split evenly, the larger shards first."""
    base, remainder = divmod(size, num_shards)
    begin, end = (index * base + min(index, remainder) for index in (shard_index, shard_index + 1))
    return begin, end
