"""Schedules of the user's own: pure functions of the epoch, checked before the training."""

import pytest
from support import tiny_document

import mutual
from mutual.engine.training.schedule import build_schedule
from mutual.recipe import InputError, RecipeError, Schedule, parse_recipe


def rates(name, *, epochs=4, **fields):
    schedule = build_schedule(Schedule(name=f"users_parts:{name}", **fields), lr=0.5, updates_per_epoch=2, epochs=epochs)
    return [schedule(update) for update in range(epochs * 2 + 2)]


def test_it_multiplies_the_learning_rate_by_epoch():
    assert rates("polynomial", args={"power": 2.0})[:8] == pytest.approx([0.5 * (1 - update / 8) ** 2 for update in range(8)])
    assert rates("polynomial")[8:] == [rates("polynomial")[7]] * 2, "what a benchmark asks for beyond the last update"


def test_a_warmup_comes_before_it_and_an_interval_holds_for_it():
    assert rates("polynomial", warmup_epochs=1)[:4] == pytest.approx([0.25, 0.5, 0.5 * 3 / 4, 0.5 * 5 / 8])
    assert rates("polynomial", interval="epoch")[:4] == pytest.approx([0.5, 0.5, 0.5 * 3 / 4, 0.5 * 3 / 4])


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("polynomiel", {}, "users_parts has no schedule 'polynomiel'; did you mean 'polynomial'"),
        ("falling", {}, "users_parts:falling gives -0.5 in epoch 1.5 of 4, no finite number that is at least 0"),
        ("wordy", {}, "users_parts:wordy gives 'half' in epoch 0 of 4"),
        ("counting", {}, "users_parts:counting gives another number when it is called again"),
        ("failing", {}, r"users_parts:failing fails in epoch 0 of 4: KeyError: 'rate' \(.*users_parts.py:\d+\)"),
        ("one_number", {}, "users_parts:one_number fails in epoch 0 of 4: TypeError: "),
        ("polynomial", {"args": {"pow": 2}}, "users_parts:polynomial fails in epoch 0 of 4: TypeError: .*'pow'"),
    ],
)
def test_what_gives_no_learning_rate_is_one_line_before_the_training(name, fields, message):
    with pytest.raises(ValueError, match=message):
        rates(name, **fields)


def test_a_number_that_no_check_has_seen_is_a_line_when_it_comes():
    schedule = build_schedule(Schedule(name="users_parts:once_negative"), lr=0.5, updates_per_epoch=1, epochs=3_000)
    assert schedule(0) == 0.5
    with pytest.raises(InputError, match=r"users_parts:once_negative gives -1\.0 in epoch 1 of 3000"):
        schedule(1)


def test_a_line_says_where_in_the_recipe(tmp_path):
    with pytest.raises(RecipeError, match=r"schedule: users_parts:falling gives -0\.1999"):
        mutual.fit(tiny_document(schedule={"name": "users_parts:falling"}, output=str(tmp_path)))


def test_names_and_arguments_are_checked_with_the_recipe():
    for schedule, message in (
        ({"name": "cosin"}, "schedule.name: 'cosin' is no valid name; did you mean 'cosine'"),
        ({"name": "cosine", "args": {"power": 2}}, "schedule.args: belongs to a function of yours"),
        ({"name": "m:f", "args": {"power": float("nan")}}, "schedule.args.power: holds .nan"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse_recipe(tiny_document(schedule=schedule))
