"""Fused optimizers in fp16: an overflow is skipped on the device, and nothing but that is different."""

import copy
import shutil

import pytest
import torch
from support import build, digests, tiny_document

import mutual
from mutual.engine import fitting
from mutual.engine.costs.op_counts import count_ops
from mutual.engine.storage import RunFolder
from mutual.engine.storage.recipe_changes import FREE_TO_CHANGE, recipe_differences
from mutual.engine.training import setup
from mutual.engine.training.peer_optimizer import with_fused_steps
from mutual.recipe import RecipeError, parse_recipe

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
DAMPED = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "args": {"dampening": 0.5}}
OPTIMIZERS = [SGD, DAMPED, {"name": "sgd", "lr": 0.1}, {"name": "adam", "lr": 0.1}, {"name": "adamw", "lr": 0.1, "args": {"amsgrad": True}}]


def optimizer_of(spec, *, fused=True, clip=None):
    spec = {**spec, "args": {**spec.get("args", {}), "fused": fused}}
    document = tiny_document(peers={"a": {"model": "support:tiny"}}, objectives=[{"loss": "cross_entropy"}], optimizer=spec)
    document["train"] |= {"precision": "fp16", "clip_grad_norm": clip}
    optimizer = build(document)[3]._optimizers["a"]
    optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    return optimizer


def run(optimizer, overflows, *, updates=6, start=0, by_host=False):
    """Steps with gradients of a fixed seed, some of which overflow; `by_host`: the host always looks, as it does for other optimizers."""
    for update in range(start, updates):
        if by_host:
            optimizer.optimizer._step_supports_amp_scaling = False
        generator = torch.Generator().manual_seed(update)
        optimizer.scale(torch.zeros(()))
        for parameter in optimizer._parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * optimizer.scaler.get_scale()
        if update in overflows:
            optimizer._parameters[-1].grad.flatten()[0] = torch.inf
        optimizer.step(update)


def state(optimizer):
    weights = [parameter.detach().clone() for parameter in optimizer._parameters]
    return weights, copy.deepcopy(optimizer.state_dict())


def assert_equal_states(actual, expected):
    for mine, other in zip(actual[0], expected[0], strict=True):
        assert torch.equal(mine, other)
    (mine, other), scalers = (each[1]["optimizer"] for each in (actual, expected)), [each[1]["scaler"] for each in (actual, expected)]
    assert scalers[0] == scalers[1]
    assert mine["param_groups"] == other["param_groups"]
    assert mine["state"].keys() == other["state"].keys()
    for index, values in mine["state"].items():
        assert values.keys() == other["state"][index].keys()
        for name, value in values.items():
            assert value is other["state"][index][name] is None or torch.equal(value, other["state"][index][name]), name


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("overflows", [(), (2, 4), (0, 1, 3), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("spec", OPTIMIZERS)
def test_an_overflow_skipped_on_the_device_is_one_skipped_by_the_host(spec, overflows, clip):
    """Bit for bit: weights, state, loss scale and its growth; an overflow of the first updates, too."""
    results = []
    for by_host in (False, True):
        optimizer = optimizer_of(spec, clip=clip)
        run(optimizer, overflows, by_host=by_host)
        results.append(state(optimizer))
    assert_equal_states(*results)
    assert all(weight.isfinite().all() for weight in results[0][0])


@pytest.mark.parametrize("spec", OPTIMIZERS)
@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_optimizer_skips_as_the_uninterrupted_one(spec, cut):
    """Cut before the first step that was taken, or behind it."""
    overflows, whole, first, second = (0, 3, 4), *(optimizer_of(spec) for _ in range(3))
    run(whole, overflows)
    run(first, overflows, updates=cut)
    weights, saved = state(first)
    second.load_state_dict(saved)
    with torch.no_grad():
        for parameter, value in zip(second._parameters, weights, strict=True):
            parameter.copy_(value)
    run(second, overflows, start=cut)
    assert_equal_states(state(second), state(whole))


@pytest.mark.parametrize("spec", [SGD, OPTIMIZERS[3]])
def test_a_fused_optimizer_takes_over_a_state_that_was_none(spec):
    """It then steps as the state's groups say."""
    plain, fused = optimizer_of(spec, fused=False), optimizer_of(spec)
    run(plain, (), updates=1)
    fused.load_state_dict(state(plain)[1])
    run(fused, (2,), start=1, updates=4)
    assert fused.scaler.get_scale() == 8.0


@pytest.mark.parametrize(("fused", "num_syncs"), [(True, 0), (False, 1)])
def test_the_host_waits_for_no_step_of_a_fused_optimizer_but_the_first(fused, num_syncs):
    optimizer = optimizer_of(SGD, fused=fused, clip=0.5)
    run(optimizer, (0,), updates=2)
    for parameter in optimizer._parameters:
        parameter.grad = torch.full_like(parameter, torch.inf)
    with count_ops() as counts:
        optimizer.scale(torch.zeros(()))
        optimizer.step(2, measure=True)
    assert len(counts.host_syncs) == num_syncs


@pytest.mark.parametrize(
    ("optimizer", "precision", "device", "fused"),
    [
        (SGD, "fp16", "cuda", True),
        ({"name": "AdamW"}, "fp16", "cuda", True),
        (SGD, "bf16", "cuda", None),
        (SGD, "fp16", "cpu", None),
        ({"name": "rmsprop"}, "fp16", "cuda", None),
        ({"name": "lamb"}, "fp16", "cuda", None),
        ({"name": "sgd", "args": {"foreach": True}}, "fp16", "cuda", None),
        ({"name": "sgd", "foreach": True}, "fp16", "cuda", None),
        ({"name": "sgd", "fused": False}, "fp16", "cuda", False),
    ],
)
def test_in_fp16_on_a_gpu_what_can_be_fused_is_and_the_recipe_says_so(optimizer, precision, device, fused):
    for own in (False, True):
        document = tiny_document(optimizer=optimizer)
        if own:
            document["peers"]["b"]["optimizer"] = optimizer
            document["optimizer"] = {"name": "rmsprop"}
        recipe = with_fused_steps(parse_recipe(document), precision, torch.device(device))
        assert recipe.optimizer_of("b").fused is fused
        assert with_fused_steps(recipe, precision, torch.device(device)) == recipe


@pytest.mark.parametrize(("device", "fused"), [("cuda", True), ("cpu", None)])
def test_a_peer_that_may_pause_is_fused_on_a_gpu(device, fused):
    document = tiny_document(optimizer=SGD, train={"pause": {"peer": "a", "versus": "b"}})
    recipe = with_fused_steps(parse_recipe(document), "no", torch.device(device))
    assert [recipe.optimizer_of(name).fused for name in "ab"] == [fused, None]
    document["optimizer"] = {"name": "rmsprop"}
    assert with_fused_steps(parse_recipe(document), "no", torch.device(device)).peers["a"].optimizer is None


@pytest.mark.slow
@pytest.mark.parametrize(("own", "is_paused"), [(True, False), (False, True)])
def test_a_run_goes_on_whose_steps_a_gpu_has_fused(own, is_paused, tmp_path, monkeypatch):
    """The run's recipe says `fused`, and the user's leaves it open, whether it has a section for the peer or not."""
    for module in (fitting, setup):
        precision = "no" if is_paused else "fp16"  # as if these were a GPU's
        monkeypatch.setattr(module, "with_fused_steps", lambda recipe, *_, precision=precision: fused_on_gpu(recipe, precision))
    pause = {"pause": {"peer": "a", "versus": "b"}} if is_paused else {}
    document = tiny_document(output=str(tmp_path / "whole"), optimizer=SGD, checkpoint={"every_steps": 2, "keep": 3})
    document["train"] |= {**pause, "epochs": 1}
    if own:
        document["peers"]["a"]["optimizer"] = {"name": "adam", "lr": 0.01}
    whole = mutual.fit(document).folder
    assert RunFolder(whole).recipe().optimizer_of("a").fused
    folder = shutil.copytree(whole, tmp_path / "cut" / whole.name)
    shutil.rmtree(folder / "checkpoints" / "step_00000005")
    mutual.fit({**document, "output": str(tmp_path / "cut")}, resume=True)
    assert digests(folder) == digests(whole)
    given = parse_recipe(document)
    assert not recipe_differences(RunFolder(whole).recipe(), given, FREE_TO_CHANGE)
    refused = parse_recipe({**document, "output": str(tmp_path / "cut"), "optimizer": {**SGD, "fused": False}})
    with pytest.raises(RecipeError, match=r"optimizer.*was started with .*True"):
        mutual.fit(refused, resume=True)


def fused_on_gpu(recipe, precision):
    return with_fused_steps(recipe, precision, torch.device("cuda"))
