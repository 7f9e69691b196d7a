"""Weights over time, at the edges of their spans."""

import pytest

from mutual.group.edges.weight_schedule import weight_factor
from mutual.recipe import OBJECTIVES, check_section


def factors(epochs, *at, **fields):
    objective = check_section(OBJECTIVES["dml"], {"loss": "dml", **fields})
    return [weight_factor(objective, epochs=epochs)(epoch) for epoch in at]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_span_without_length_is_a_step(name):
    schedule = {"name": name, "from_epoch": 1, "until_epoch": 1, "start": 2, "end": 3}
    assert factors(4, 0, 0.5, 1, 1.001, 4, schedule=schedule) == [2, 2, 2, 3, 3]


def test_a_schedule_ends_with_the_training_unless_it_says_when():
    assert factors(4, 0, 2, 4, schedule={"name": "linear"}) == [0, 0.5, 1]
    assert factors(4, 0, 2, 4, schedule={"name": "linear", "until_epoch": 2}) == [0, 1, 1]
    assert factors(4, 0, 2, 4, schedule={"name": "linear", "from_epoch": 2}) == [0, 0, 1]
    assert factors(4, 3.99, 4, schedule={"name": "constant"}) == [1, 0]


def test_a_ramp_begins_with_its_start():
    assert factors(4, 0, 4, schedule={"name": "ramp_up", "start": 0.5, "end": 2}) == [0.5, 2]
