"""EpochPlan: which samples each rank computes in each micro-batch, as a pure function of (seed, epoch).

A window is what one update learns from: the next W * b * k samples of the epoch's order (W ranks, batch size b, k micro-batches), the last
one what is left. It is split evenly into micro-batches, and these evenly into parts, so that everyone has the same number of micro-batches
in every window. Where every rank trains every peer there are W parts; a peer that has ranks of its own has as many parts as these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mutual.recipe import derive_seed


@dataclass(frozen=True)
class Cell:
    """One part's micro-batch: positions `[begin, end)` in the epoch's order; `filler` stands in where the cell is empty.

    `total` counts the samples of the micro-batch over all parts.
    """

    begin: int
    end: int
    filler: int
    total: int


@dataclass(frozen=True)
class EpochPlan:
    """The windows of an epoch of `num_samples` samples."""

    num_samples: int
    batch_size: int
    world_size: int
    accumulate: int
    seed: int

    @property
    def window_size(self) -> int:
        """Samples of a full window, over all ranks."""
        return self.batch_size * self.world_size * self.accumulate

    @property
    def num_windows(self) -> int:
        """Windows, and so updates, of an epoch."""
        return math.ceil(self.num_samples / self.window_size)

    def order(self, epoch: int) -> list[int]:
        """Returns the epoch's permutation of the sample indices."""
        return epoch_order(self.num_samples, seed=self.seed, epoch=epoch)

    def size(self, window: int) -> int:
        """Returns how many samples the window has over all ranks."""
        return min(self.window_size, self.num_samples - window * self.window_size)

    def micro_sizes(self, window: int) -> list[int]:
        """Returns how many samples each micro-batch of the window has over all ranks."""
        size = self.size(window)
        number = math.ceil(size / (self.batch_size * self.world_size))
        return [end - begin for begin, end in (even_part(size, index, number) for index in range(number))]

    def cells(self, window: int, part: int, parts: int | None = None) -> list[Cell]:
        """Returns one part's micro-batches of a window, of `parts` (the default is one for each rank)."""
        start = window * self.window_size
        cells = []
        begin = start
        for size in self.micro_sizes(window):
            first, last = even_part(size, part, parts or self.world_size)
            cells.append(Cell(begin + first, begin + last, filler=start, total=size))
            begin += size
        return cells


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> list[int]:
    """Returns the permutation of the sample indices in which an epoch takes them."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    order: list[int] = torch.randperm(num_samples, generator=generator).tolist()
    return order


def even_part(size: int, part: int, parts: int) -> tuple[int, int]:
    """Returns where part number `part` begins and ends when `size` things are cut into `parts`, the larger ones first."""
    base, larger = divmod(size, parts)
    begin, end = (index * base + min(index, larger) for index in (part, part + 1))
    return begin, end
