"""Draws of code that is not ours: by a seed, in whatever process, and without a trace in the training's."""

import random

import numpy as np
import pytest
import torch

from mutual.data import seeded_generators


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


@pytest.mark.parametrize("in_worker", [False, True])
def test_draws_depend_on_the_seed_alone(monkeypatch, in_worker):
    monkeypatch.setattr("mutual.data.seeding.get_worker_info", lambda: object() if in_worker else None)
    with seeded_generators(3):
        first = draws()
    draws()
    with seeded_generators(3):
        assert draws() == first
    with seeded_generators(4):
        assert not set(draws()) & set(first)


def test_the_generators_go_on_as_before():
    for error in (False, True):
        with seeded_generators(0):
            expected = draws(), draws()
        with seeded_generators(0):
            found = [draws()]
            with pytest.raises(KeyError) if error else seeded_generators(5), seeded_generators(5):
                draws()
                if error:
                    raise KeyError
            found.append(draws())
        assert tuple(found) == expected
