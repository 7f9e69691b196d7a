"""Seeding: code that is not ours draws from a seed of its own, and leaves the generators as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """Context in which the global generators of torch (on the CPU), NumPy and Python draw by `seed`; behind it they go on as before.

    Example:
        >>> with seeded_generators(3):
        ...     first = random.random(), np.random.rand(), torch.rand(()).item()
        >>> with seeded_generators(3):
        ...     first == (random.random(), np.random.rand(), torch.rand(()).item())
        True
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002, what code that is not ours may draw from
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
