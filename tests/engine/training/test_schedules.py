"""Schedules in pieces, in cycles and to a power; warm-ups by their first rate, by updates and by epochs."""

import pytest
import torch
from support import tiny_document
from torch import nn

from mutual.engine.training.clipping import clip_parameter_norms
from mutual.engine.training.parameter_groups import unknown_paths
from mutual.engine.training.schedule import build_schedule
from mutual.recipe import Optimizer, RecipeError, Schedule, parse_recipe


def rates(epochs=6, per_epoch=4, lr=0.5, **fields):
    schedule = build_schedule(Schedule(**fields), lr=lr, updates_per_epoch=per_epoch, epochs=epochs)
    return [schedule(update) for update in range(epochs * per_epoch)]


def torchs(make, *, lr=0.5, num_updates=24, per_step=1):
    """The rates of a scheduler of torch that is stepped once in `per_step` updates."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    found = []
    for update in range(num_updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (update + 1) % per_step == 0:
            scheduler.step()
    return found


def test_pieces_have_factors_of_the_rate():
    found = rates(name="piecewise", milestones=[1, 2.5], factors=[1.0, 0.3, 0.0])
    assert found == pytest.approx([0.5] * 4 + [0.15] * 6 + [0.0] * 14)


def test_a_power_is_that_of_torchs_polynomial():
    assert rates(name="linear", power=0.9) == pytest.approx(torchs(lambda each: torch.optim.lr_scheduler.PolynomialLR(each, 24, power=0.9)))


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize("interval", ["update", "epoch"])
def test_cycles_are_torchs(mode, interval):
    per_step = 4 if interval == "epoch" else 1
    arguments = {"step_size_up": 2, "step_size_down": 3, "mode": mode, "gamma": 0.9, "cycle_momentum": False}
    expected = torchs(lambda each: torch.optim.lr_scheduler.CyclicLR(each, 0.1, 0.7, **arguments), per_step=per_step, num_updates=48)
    found = rates(lr=0.1, name="cyclic", max_lr=0.7, rise=2, fall=3, cycle_mode=mode, gamma=0.9, interval=interval, epochs=12)
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_fall_is_as_long_as_the_rise_by_default():
    assert rates(name="cyclic", lr=1.0, max_lr=3.0, rise=2)[:5] == [1.0, 2.0, 3.0, 2.0, 1.0]


def test_a_warmup_may_begin_at_zero_and_is_as_long_as_said():
    found = rates(name="constant", warmup_epochs=1, warmup_start_lr=0.0)
    assert found[:6] == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]
    assert rates(name="constant", warmup_updates=4, warmup_start_lr=0.1)[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rates(name="constant", warmup_updates=4)[:5] == [0.125, 0.25, 0.375, 0.5, 0.5]


def test_a_warmup_by_epochs_rises_at_their_ends_and_need_not_end_there():
    found = rates(name="constant", warmup_epochs=2.5, warmup_interval="epoch")
    assert found[:13] == pytest.approx([0.2] * 4 + [0.4] * 4 + [0.5] * 5)
    found = rates(name="constant", warmup_epochs=2.5, warmup_interval="epoch", warmup_start_lr=0.0)
    assert found[:13] == pytest.approx([0.0] * 4 + [0.2] * 4 + [0.4] * 4 + [0.5])


def test_epochs_may_be_counted_from_the_end_of_the_warmup():
    steps = {"name": "multistep", "milestones": [2], "warmup_epochs": 1, "gamma": 0.5}
    assert rates(**steps)[7:9] == [0.5, 0.25]
    assert rates(**steps, count_from="warmup_end")[11:13] == [0.5, 0.25]
    assert rates(name="step", step_epochs=2, gamma=0.5, warmup_epochs=1, count_from="warmup_end")[11:13] == [0.5, 0.25]
    whole = {"name": "linear", "warmup_epochs": 2}
    assert rates(**whole) == rates(**whole, count_from="warmup_end"), "a whole number of updates makes no difference"
    found = rates(name="linear", warmup_epochs=1.4, count_from="warmup_end")
    assert found[7] == pytest.approx(0.5 * (1 - 1 / (24 - 5.6))), "the warm-up is 6 updates, the way behind it 18.4"


@pytest.mark.parametrize(
    ("schedule", "path", "message"),
    [
        ({"name": "cosine", "power": 2.0}, "power", "belongs to name: linear, not to cosine"),
        ({"name": "multistep", "factors": [1.0]}, "factors", "belongs to name: piecewise, not to multistep"),
        ({"name": "linear", "max_lr": 2.0}, "max_lr", "belongs to name: cyclic, not to linear"),
        ({"name": "linear", "num_cycles": 2.0}, "num_cycles", "belongs to name: fixmatch_cosine, not to linear"),
        ({"name": "piecewise", "milestones": [2], "factors": [1.0]}, "factors", "1 factors are not one more than 1 milestones"),
        ({"name": "cyclic", "rise": 2}, "max_lr", "is missing; a cyclic schedule needs it"),
        ({"warmup_epochs": 1, "warmup_updates": 4}, "warmup_updates", "warmup_epochs says already how long the warm-up is"),
        ({"warmup_updates": 4, "warmup_interval": "epoch"}, "warmup_updates", "a warm-up that rises once an epoch is counted in epochs"),
    ],
)
def test_what_a_schedule_would_pass_over_is_a_fault(schedule, path, message):
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(tiny_document(schedule=schedule))
    assert [fault.path for fault in caught.value.faults] == [f"schedule.{path}"]


def test_each_gradient_is_clipped_by_itself():
    parameters = [nn.Parameter(torch.zeros(size)) for size in (2, 2, 3, 1)]
    for parameter, gradient in zip(parameters, ([3.0, 4.0], [0.3, 0.4], [0.0, 0.0, 0.0]), strict=False):
        parameter.grad = torch.tensor(gradient)
    clip_parameter_norms(parameters, 2.0)
    found = [parameter.grad for parameter in parameters]
    torch.testing.assert_close(found[:3], [torch.tensor([1.2, 1.6]), torch.tensor([0.3, 0.4]), torch.zeros(3)])
    assert found[3] is None


def test_one_kind_of_clipping_is_enough():
    with pytest.raises(RecipeError, match="clip_grad_norm limits the norm of all parameters already"):
        parse_recipe(tiny_document(train={"clip_grad_norm": 1.0, "clip_parameter_norm": 1.0}))


def test_a_group_of_nothing_is_a_fault_unless_it_may_be_empty():
    group = {"modules": ["*head*"], "weight_decay": 0.0}
    model = nn.Sequential(nn.Linear(1, 1))
    assert len(list(unknown_paths(Optimizer(groups=[group]), model))) == 1
    assert list(unknown_paths(Optimizer(groups=[{**group, "may_be_empty": True}]), model)) == []
