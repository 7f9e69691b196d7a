"""Seeding: code that is not ours draws from a seed of its own, and leaves the generators as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import get_worker_info


@contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """Context in which the global generators of torch (on the CPU), NumPy and Python draw by `seed`; behind it they go on as before.

    In a loader process NumPy's and Python's do not: there, nobody draws from them outside of such a context.

    Example:
        >>> with seeded_generators(3):
        ...     first = random.random(), np.random.rand(), torch.rand(()).item()
        >>> with seeded_generators(3):
        ...     first == (random.random(), np.random.rand(), torch.rand(()).item())
        True
    """
    torchs = torch.get_rng_state()
    others = None if get_worker_info() else (np.random.get_state(), random.getstate())  # noqa: NPY002, it takes as long as a small image
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002, what code that is not ours may draw from
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(torchs)
        if others is not None:
            np.random.set_state(others[0])  # noqa: NPY002
            random.setstate(others[1])
