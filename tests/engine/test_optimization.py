"""Schedules in closed form, optimizers by name, weight decay where it is wanted."""

import math

import pytest
import timm.optim
import torch
from torch import nn

from mutual.engine.optimization import build_optimizer, build_schedule
from mutual.recipe import Optimizer, Schedule


def rates(epochs=10, per_epoch=4, lr=0.5, **fields):
    schedule = build_schedule(Schedule(**fields), lr=lr, updates_per_epoch=per_epoch, epochs=epochs)
    return [schedule(update) for update in range(epochs * per_epoch)]


def test_cosine_after_warmup():
    found = rates(name="cosine", warmup_epochs=2, min_lr=0.1)
    assert found[:8] == pytest.approx([0.5 * (update + 1) / 8 for update in range(8)])
    assert found[8] == 0.5
    assert found[24] == pytest.approx(0.1 + 0.4 * (1 + math.cos(math.pi / 2)) / 2)
    assert found[-1] > 0.1


def test_linear_step_multistep_constant():
    assert rates(name="constant") == [0.5] * 40
    assert rates(name="linear") == pytest.approx([0.5 * (1 - update / 40) for update in range(40)])
    assert rates(name="step", step_epochs=4, gamma=0.1) == pytest.approx([0.5] * 16 + [0.05] * 16 + [0.005] * 8)
    assert rates(name="multistep", milestones=[2, 9], gamma=0.5) == pytest.approx([0.5] * 8 + [0.25] * 28 + [0.125] * 4)


def test_cosine_equals_torchs_own():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(name="cosine") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("AdamW", torch.optim.AdamW), ("lamb", timm.optim.Lamb)])
def test_optimizers_of_torch_and_timm_by_name(name, kind):
    parameters = list(nn.Linear(2, 2).parameters())
    optimizer = build_optimizer(Optimizer(name=name, lr=0.1), parameters)
    assert isinstance(optimizer, kind)
    before = parameters[0].detach().clone()
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not torch.equal(before, parameters[0])


def test_weight_decay_leaves_out_norm_and_bias_on_request():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = build_optimizer(Optimizer(weight_decay=0.1, decay_norm_and_bias=False), list(model.parameters()))
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert decay[id(model[0].weight)] == 0.1
    assert {decay[id(parameter)] for parameter in (model[0].bias, model[1].weight, model[1].bias)} == {0.0}
    assert len(decay) == 4
