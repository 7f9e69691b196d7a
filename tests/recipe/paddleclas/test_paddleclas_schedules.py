"""The learning rate of each update is theirs: closed forms from their documentation, stepped as their trainer steps a schedule."""

from __future__ import annotations

import math

import pytest

from mutual.engine.training.schedule import build_schedule
from mutual.recipe import RecipeError, Schedule, check_section
from mutual.recipe.paddleclas.schedules import convert_schedule
from mutual.recipe.paddleclas.section import Notes, Section

RUNS = [(8, 5), (11, 3)]
"""Epochs and updates in an epoch."""
WARMUPS = [{}, {"warmup_epoch": 2}, {"warmup_epoch": 2, "warmup_start_lr": 0.01}, {"warmup_epoch": 1.5}, {"warmup_epoch": 2.3}]
# n: counts since the end of the warm-up; unit: counts in an epoch (1 where an epoch is a count); length: all counts but the warm-up's
FORMS = {
    "ConstLR": ({"learning_rate": 0.4}, lambda n, unit, length: 0.4),
    "Cosine": ({"learning_rate": 0.4}, lambda n, unit, length: 0.2 * (math.cos(math.pi * n / length) + 1)),
    "Cosine to eta_min": (
        {"learning_rate": 0.4, "eta_min": 0.1},
        lambda n, unit, length: 0.1 + 0.15 * (math.cos(math.pi * n / length) + 1),
    ),
    "Linear": ({"learning_rate": 0.4}, lambda n, unit, length: 0.4 * (1 - min(n, length) / length)),
    "Linear to a power": (
        {"learning_rate": 0.4, "end_lr": 0.02, "power": 2.0, "cycle": True},
        lambda n, unit, length: 0.38 * (1 - min(n, length) / length) ** 2 + 0.02,
    ),
    "Step": ({"learning_rate": 0.4, "step_size": 3, "gamma": 0.2}, lambda n, unit, length: 0.4 * 0.2 ** (n // (3 * unit))),
    "MultiStepDecay": (
        {"learning_rate": 0.4, "milestones": [1, 4]},
        lambda n, unit, length: 0.4 * 0.1 ** [n >= unit, n >= 4 * unit].count(True),
    ),
    "Piecewise": (
        {"decay_epochs": [1, 3, 4], "values": [0.4, 0.3, 0.0004, 0.0]},
        lambda n, unit, length: 0.4 if n < unit else 0.3 if n < 3 * unit else 0.0004 if n < 4 * unit else 0.0,
    ),
    "Piecewise by its rule": ({"learning_rate": 0.4}, lambda n, unit, length: 0.4 * 0.1 ** (n // (30 * unit))),
    "Cyclic": (
        {"base_learning_rate": 0.1, "max_learning_rate": 0.4, "step_size_up": 3, "step_size_down": 6},
        lambda n, unit, length: 0.1 + 0.3 * (n % 9 / 3 if n % 9 <= 3 else (9 - n % 9) / 6),
    ),
    "Cyclic of half the height": (
        {"base_learning_rate": 0.1, "max_learning_rate": 0.4, "step_size_up": 4, "mode": "triangular2"},
        lambda n, unit, length: 0.1 + 0.3 / 2 ** (n // 8) * (1 - abs(n % 8 - 4) / 4),
    ),
    "Cyclic of a decaying height": (
        {"base_learning_rate": 0.1, "max_learning_rate": 0.4, "step_size_up": 4, "mode": "exp_range", "exp_gamma": 0.9},
        lambda n, unit, length: 0.1 + 0.3 * 0.9**n * (1 - abs(n % 8 - 4) / 4),
    ),
}


def converted(name, config):
    notes = Notes()
    lr, schedule = convert_schedule(Section({"lr": {"name": name.split()[0], **config}}, "Optimizer", notes))
    check_section(Schedule, schedule)
    return lr, schedule, notes


def rates(lr, schedule, epochs, per_epoch):
    learning_rate = build_schedule(Schedule(**schedule), lr=lr, updates_per_epoch=per_epoch, epochs=epochs)
    return [learning_rate(update) for update in range(epochs * per_epoch)]


def theirs(config, form, epochs, per_epoch):
    """Their trainer's rates: a schedule that is stepped after each update, or each epoch, behind a linear warm-up."""
    by_epoch, warmup_epoch = config.get("by_epoch", False), config.get("warmup_epoch", 0)
    unit = 1 if by_epoch else per_epoch
    warmup = warmup_epoch if by_epoch else round(warmup_epoch * per_epoch)
    start, end = config.get("warmup_start_lr", 0.0), form(0, unit, 1)
    found = []
    for update in range(epochs * per_epoch):
        count = update // per_epoch if by_epoch else update
        behind = form(count - warmup, unit, (epochs - warmup_epoch) * unit)
        found.append(start + (end - start) * count / warmup if count < warmup else behind)
    return found


@pytest.mark.parametrize(("epochs", "per_epoch"), RUNS)
@pytest.mark.parametrize("by_epoch", [False, True])
@pytest.mark.parametrize("warmup", WARMUPS, ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_every_update_has_the_rate_of_theirs(name, warmup, by_epoch, epochs, per_epoch):
    config, form = FORMS[name]
    config = {**config, **warmup, **({"by_epoch": True} if by_epoch else {})}
    lr, schedule, notes = converted(name, config)
    expected = theirs(config, form, epochs, per_epoch)
    assert rates(lr, schedule, epochs, per_epoch) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert bool(notes.left_out) == (name.startswith("Linear") and by_epoch and bool(warmup)), "where their own code slips"


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_cosine_of_fixmatch_warms_up_by_updates(warmup):
    lr, schedule, _ = converted("CosineFixmatch", {"learning_rate": 0.03, "num_warmup_steps": warmup})
    expected = [
        0.03 * (update / warmup if update < warmup else max(0.0, math.cos(math.pi * 7 / 16 * (update - warmup) / (24 - warmup))))
        for update in range(24)
    ]
    assert rates(lr, schedule, 6, 4) == pytest.approx(expected, rel=1e-12)


def test_a_step_of_half_an_epoch_is_rounded_down_to_whole_updates():
    lr, schedule, _ = converted("Step", {"learning_rate": 1.0, "step_size": 2.5, "gamma": 0.5})
    assert rates(lr, schedule, 5, 3) == [0.5 ** (update // 7) for update in range(15)]


@pytest.mark.parametrize("value", [0.01, {"learning_rate": 0.01}, {"name": "Constant", "learning_rate": 0.01}, {"learning_rate": "1e-2"}])
def test_a_plain_rate_stays_as_it_is(value):
    lr, schedule = convert_schedule(Section({"lr": value}, "Optimizer", Notes()))
    assert (lr, schedule) == (0.01, {"name": "constant"})


def test_the_usual_cosine_needs_few_words():
    assert converted("Cosine", {"learning_rate": 0.8, "warmup_epoch": 5})[:2] == (
        0.8,
        {"name": "cosine", "warmup_epochs": 5, "warmup_start_lr": 0.0},
    )


def test_factors_are_short_where_that_says_the_same():
    _, schedule, _ = converted("Piecewise", {"decay_epochs": [30, 60], "values": [0.1, 0.01, 0.0003]})
    assert schedule == {"name": "piecewise", "milestones": [30, 60], "factors": [1.0, 0.1, 0.003]}


@pytest.mark.parametrize(
    ("name", "config", "line"),
    [
        ("Linear", {"learning_rate": 0.1, "warmup_epoch": 2, "by_epoch": True}, "Optimizer.lr.by_epoch: true: their Linear takes"),
        ("Constant", {"learning_rate": 0.1, "warmup_epoch": 2}, "Optimizer.lr.warmup_epoch: 2: their Constant passes it over"),
        ("Cosine", {"learning_rate": 0.1, "eta_min": 0.2}, "Optimizer.lr.eta_min: 0.2: it is above the learning rate, 0.1"),
        ("ReduceOnPlateau", {"learning_rate": 0.1}, "Optimizer.lr.name: 'ReduceOnPlateau': no schedule here follows the scores"),
        ("CosineFixmatch", {"learning_rate": 0.1, "by_epoch": True}, "Optimizer.lr.by_epoch: true: their CosineFixmatch"),
        (
            "Piecewise",
            {"learning_rate": 0.1, "decay_epochs": [10], "values": [0.1, 0.01]},
            "Optimizer.lr.values: [0.1, 0.01]: with learning_rate, their newest release drops to a tenth every 30 epochs",
        ),
    ],
)
def test_what_no_schedule_here_does_is_named(name, config, line):
    assert [text[: len(line)] for text in converted(name, config)[2].left_out] == [line]


@pytest.mark.parametrize(
    ("config", "remark"),
    [
        ({"last_epoch": 3}, "Optimizer.lr.last_epoch: a run begins with the schedule's first update; --resume goes on with a run"),
        ({"warmup_epoch": 1, "warmup_start_lr": 0.5}, "Optimizer.lr.warmup_start_lr: the warm-up falls, from 0.5 to 0.1"),
    ],
)
def test_what_is_unusual_is_remarked(config, remark):
    assert converted("Cosine", {"learning_rate": 0.1, **config})[2].remarks == [remark]


def test_the_last_of_too_few_pieces_goes_on():
    """Paddle 2 took its last value behind the last epoch; their attributes' baseline is written so."""
    lr, schedule, notes = converted("Piecewise", {"decay_epochs": [12, 18], "values": [0.1, 0.01]})
    assert (lr, schedule) == (0.1, {"name": "piecewise", "milestones": [12, 18], "factors": [1.0, 0.1, 0.1]})
    assert notes.remarks == [
        "Optimizer.lr.values: is one too short, of which newer Paddle makes an error: the last rate stays behind epoch 18"
    ]


def test_pieces_that_follow_the_rule_are_no_fault():
    config = {"learning_rate": 0.1, "decay_epochs": [30, 60, 90], "values": [0.1, 0.01, 0.001, 0.0001]}
    lr, schedule, notes = converted("Piecewise", config)
    assert (lr, schedule, notes.left_out) == (0.1, {"name": "step", "step_epochs": 30, "gamma": 0.1}, [])


@pytest.mark.parametrize(
    ("lr", "path", "message"),
    [
        (None, "Optimizer.lr", "is missing"),
        ({"name": "Cosin", "learning_rate": 0.1}, "Optimizer.lr.name", "did you mean 'Cosine'"),
        ({"name": "Cosine"}, "Optimizer.lr.learning_rate", "is missing"),
        ({"name": "Cosine", "learning_rate": "much"}, "Optimizer.lr.learning_rate", "'much' is no number"),
        ({"name": "Cosine", "learning_rate": 0}, "Optimizer.lr.learning_rate", "0 is not greater than 0"),
        (
            {"name": "Piecewise", "decay_epochs": [3, 6, 9], "values": [0.1, 0.01]},
            "Optimizer.lr.values",
            "2 values are not one more than 3 decay_epochs",
        ),
        ({"name": "Piecewise", "decay_epochs": [3], "values": [0, 1]}, "Optimizer.lr.values", "the first is 0.0; it must be greater"),
        ({"name": "Piecewise", "decay_epochs": [3], "values": [1, None]}, "Optimizer.lr.values", "has an entry without a number"),
        ({"name": "MultiStepDecay", "learning_rate": 1, "milestones": [4, 2]}, "Optimizer.lr.milestones", "are not rising epochs"),
    ],
)
def test_a_schedule_that_cannot_be_is_one_line(lr, path, message):
    with pytest.raises(RecipeError, match=message) as caught:
        convert_schedule(Section({"lr": lr}, "Optimizer", Notes()))
    assert [fault.path for fault in caught.value.faults] == [path]
