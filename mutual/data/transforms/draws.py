"""Draws: random numbers by counting, for all images of a batch at once; each is a function of its image's key and of its own number.

The generator is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), whose n-th number is a hash of key + n * gamma, so that no state is
carried from one number, image or batch to the next. In uint64 with NumPy and, with the same bits, in int64 with torch on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mutual.recipe import derive_seed

Keys = NDArray[np.uint64]

_GAMMA = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


def image_keys(seed: int, view: int, numbers: Sequence[int], indices: Sequence[int]) -> Keys:
    """Returns the key of each image: by the recipe's seed, the peer's view, the epoch or the number of the image's view, and its index."""
    first = np.array([derive_seed(seed, "augment", view)], dtype=np.uint64)
    return derive_keys(derive_keys(first, numbers), indices)


def derive_keys(keys: Keys, parts: Sequence[int] | NDArray[np.int64] | int) -> Keys:
    """Returns a key for each of `keys` and its part, or for each and one part that they have in common."""
    return _hash(keys ^ np.atleast_1d(np.asarray(parts, dtype=np.uint64)))


def uniforms(keys: Keys, number: int) -> NDArray[np.float64]:
    """Returns `number` random numbers in [0, 1) for each of the keys, `[keys, number]`."""
    counts = np.arange(1, number + 1, dtype=np.uint64)
    return (_hash(keys[:, None] + counts * np.uint64(_GAMMA)) >> np.uint64(11)) * 2.0**-53


def random_bytes(keys: Tensor, number: int) -> Tensor:
    """Returns `number` random bytes for each of the keys (the bits of `Keys` as int64), uint8 `[keys, number]`, on their device."""
    counts = torch.arange(1, -(-number // 8) + 1, device=keys.device)
    return _hash_int64(keys[:, None] + counts * _signed(_GAMMA)).view(torch.uint8)[:, :number]


def _hash(values: Keys) -> Keys:
    """Returns SplitMix64's hash, a permutation of the 64-bit integers."""
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(_SHIFTS[-1]))


def _hash_int64(values: Tensor) -> Tensor:
    """Returns the same hash of the same bits; products wrap around."""
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        values = (values ^ _shifted(values, shift)) * _signed(factor)
    return values ^ _shifted(values, _SHIFTS[-1])


def _shifted(values: Tensor, shift: int) -> Tensor:
    """Returns the bits shifted to the right, and zeros for the sign's copies that int64 shifts in."""
    return (values >> shift) & (2 ** (64 - shift) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
