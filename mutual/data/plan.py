"""EpochPlan: which samples each rank computes in each micro-batch, as a pure function of (seed, epoch).

A window is what one update learns from: the next W * b * k samples of the epoch's order (W ranks, batch size b, k micro-batches), the last
one what is left. It is split evenly, so that every rank has the same number of micro-batches in every window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mutual.recipe import derive_seed


@dataclass(frozen=True)
class Cell:
    """One rank's micro-batch: positions `[begin, end)` in the epoch's order; `filler` stands in where the cell is empty."""

    begin: int
    end: int
    filler: int


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
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        order: list[int] = torch.randperm(self.num_samples, generator=generator).tolist()
        return order

    def size(self, window: int) -> int:
        """Returns how many samples the window has over all ranks."""
        return min(self.window_size, self.num_samples - window * self.window_size)

    def cells(self, window: int, rank: int) -> list[Cell]:
        """Returns the rank's micro-batches of a window.

        The window's samples are cut, micro-batch by micro-batch and then by rank, into parts that differ by one sample at most, the
        larger first.
        """
        start, size = window * self.window_size, self.size(window)
        num_cells = math.ceil(size / (self.batch_size * self.world_size)) * self.world_size
        base, larger = divmod(size, num_cells)

        def bound(cell: int) -> int:
            return start + cell * base + min(cell, larger)

        return [Cell(bound(cell), bound(cell + 1), filler=start) for cell in range(rank, num_cells, self.world_size)]
