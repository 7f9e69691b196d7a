"""readable_rows: the rows of a batch's images that could be read."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import torch
from torch import Tensor


def readable_rows(rows: Tensor, bad_rows: Collection[int]) -> Tensor:
    """Returns `rows` `[B, ...]` without those at `bad_rows`: by slices, as a list of indices would have to be copied to the device.

    Example:
        >>> readable_rows(torch.arange(4), [1])
        tensor([0, 2, 3])
    """
    if not bad_rows:
        return rows
    bounds = [-1, *sorted({row for row in bad_rows if row < len(rows)}), len(rows)]
    return torch.cat([rows[before + 1 : after] for before, after in pairwise(bounds)])
