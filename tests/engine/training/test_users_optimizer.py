"""Optimizers of the user's own: what they are given, saved and resumed with, and what is refused in a line."""

import shutil

import pytest
import torch
from support import digests, tiny_document
from torch import nn

import mutual
from mutual.engine.training.peer_optimizer import PeerOptimizer, build_optimizer
from mutual.recipe import Optimizer, RecipeError, parse_recipe


def built(name, **fields):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    return build_optimizer(Optimizer(name=f"users_parts:{name}", lr=0.1, **fields), list(model.parameters())), model


def test_it_is_given_groups_and_arguments():
    optimizer, model = built("Lion", weight_decay=0.2, decay_norm_and_bias=False, args={"beta": 0.5})
    assert [(len(group["params"]), group["weight_decay"], group["beta"]) for group in optimizer.param_groups] == [
        (1, 0.2, 0.5),
        (3, 0, 0.5),
    ]
    assert optimizer.param_groups[0]["params"] == [model[0].weight]
    assert not optimizer.state, "its trial was of other parameters"


def test_a_callable_that_names_weight_decay_is_given_it():
    assert isinstance(built("sgd", weight_decay=0.2)[0], torch.optim.SGD)
    assert built("without_decay")[0].param_groups[0]["weight_decay"] == 0


def test_the_trial_draws_nothing_of_the_trainings():
    parameters = list(nn.Linear(2, 2).parameters())
    before = torch.get_rng_state()
    build_optimizer(Optimizer(name="users_parts:Noisy"), parameters)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("Lyon", {}, r"users_parts has no optimizer 'Lyon'; did you mean 'Lion'\?"),
        ("Lion", {"momentum": 0.9}, "Lion takes no argument 'momentum'"),
        ("Forgetful", {}, "restored from a checkpoint, it steps otherwise; keep what it needs in `self.state`"),
        ("Queueing", {}, r"its state\['state'\]\[0\]\['losses'\] is a deque, which no checkpoint can hold"),
        ("Raising", {}, r"RuntimeError: no such \(.*users_parts.py:\d+\)"),
        ("partly", {}, "holds 1 of the 2 parameters"),
        ("number", {}, "gives int, no torch.optim.Optimizer"),
        ("without_decay", {"weight_decay": 0.1}, "knows no weight_decay; set weight_decay to 0"),
    ],
)
def test_what_cannot_train_or_be_resumed_is_one_line(name, fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        built(name, **fields)
    assert "\n" not in str(caught.value)


def test_a_line_says_where_in_the_recipe(tmp_path):
    peers = {"a": {"model": "support:tiny", "optimizer": {"name": "users_parts:number"}}}
    with pytest.raises(RecipeError, match=r"peers\.a\.optimizer: users_parts:number gives int"):
        mutual.fit(tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}], output=str(tmp_path)))


def test_an_overflow_skips_its_step():
    optimizer, model = built("Lion")
    peer = type("Peer", (), {"name": "a", "parameters": lambda _: list(model.parameters()), "average": None})()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    stepped = PeerOptimizer(peer, optimizer, lambda _: 0.1, scaler=scaler, seed=0)
    before = model[0].weight.detach().clone()
    for update, value in enumerate((float("inf"), 1.0)):
        scale = scaler.get_scale()
        stepped.scale(model[0].weight.sum() * value).backward()
        stepped.step(update)
        assert torch.equal(model[0].weight, before) == (update == 0)
    assert scale == 2.0


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, precision):
    document = tiny_document(
        output=str(tmp_path / "whole"),
        peers={
            "a": {"model": "support:tiny", "args": {"dropout": 0.3}},
            "b": {"model": "support:tiny", "optimizer": {"name": "users_parts:Noisy", "lr": 0.01}},
            "c": {"model": "support:tiny", "optimizer": {"name": "users_parts:Warming", "lr": 0.1}},
        },
        optimizer={"name": "users_parts:Lion", "lr": 0.01, "weight_decay": 0.1, "decay_norm_and_bias": False},
        schedule={"name": "users_parts:polynomial", "args": {"power": 2.0}, "warmup_epochs": 0.5},
        train={"epochs": 2, "progress": False, "ema": 0.9, "precision": precision},
        checkpoint={"every_steps": 1, "keep": 100},
    )
    whole = mutual.fit(parse_recipe(document)).folder
    cut = shutil.copytree(whole, tmp_path / "cut" / whole.name)
    for path in (cut / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > 3:
            shutil.rmtree(path)
    mutual.fit(parse_recipe({**document, "output": str(tmp_path / "cut")}), resume=True)
    assert digests(cut) == digests(whole)
