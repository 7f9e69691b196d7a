"""Rates and weight decays by a model's modules: an update is that of a loop written by hand, and goes on from a checkpoint."""

import json
import math
import shutil

import pytest
import timm
import timm.optim
import torch
import torch.nn.functional as F
import torchvision
from support import build, charted, digests, inputs_of, tiny_document
from torch import nn

import mutual
from mutual.engine.training.parameter_groups import _layers, layer_scales, parameter_groups
from mutual.models import create_model
from mutual.recipe import Optimizer, RecipeError, parse_recipe

CE = {"loss": "cross_entropy"}
PEER = {"a": {"model": "support:tiny", "args": {"norm": True}}}


def groups_of(model, **fields):
    """By the parameter's name its rate and its weight decay."""
    spec = Optimizer(lr=0.1, **fields)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = parameter_groups(spec, parameters, model)
    assert sorted(id(each) for group in groups for each in group["params"]) == sorted(map(id, parameters)), "each once"
    return {names[id(each)]: (group.get("lr", 0.1), group["weight_decay"]) for group in groups for each in group["params"]}


def net():
    parts = {"stem": nn.Conv2d(1, 2, 1), "norm": nn.BatchNorm2d(2), "body": nn.Sequential(nn.Conv2d(2, 2, 1), nn.Linear(2, 2))}
    return _Named(parts, nn.Linear(2, 3))


class _Named(nn.Module):
    def __init__(self, parts, head):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 2))
        for name, part in parts.items():
            self.add_module(name, part)
        self.head = head


def test_layers_are_top_level_modules_and_the_entries_of_lists():
    layers = {name.rpartition(".")[0] or name: layer for name, layer in _layers(net()).items()}
    assert layers == {"token": 0, "stem": 0, "norm": 0, "body.0": 1, "body.1": 2, "head": 3}
    assert layer_scales(net(), 0.5)["stem.weight"] == 0.125


def test_torchvisions_resnets_have_the_layers_of_timms():
    with torch.device("meta"):
        assert _layers(torchvision.models.resnet18(num_classes=10)) == _layers(timm.create_model("resnet18", num_classes=10))


@pytest.mark.parametrize(("name", "last"), [("vit_b_16", 13), ("vgg11", 10), ("googlenet", 12), ("efficientnet_b0", 18), ("swin_t", 16)])
def test_blocks_are_layers_and_the_classifier_is_the_last(name, last):
    with torch.device("meta"):
        args = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        layers = _layers(torchvision.models.get_model(name, num_classes=10, **args))
    assert (max(layers.values()), list(layers.values())[-1]) == (last, last)
    assert sorted(layers.values()) == list(layers.values())


@pytest.mark.parametrize(
    ("name", "last"), [("pplcnet_x0_25", 15), ("small_cnn", 4), ("paddleclas/ResNet18_vd", 11), ("paddleclas/MobileNetV3_small_x0_35", 14)]
)
def test_ours_have_their_blocks_as_layers(name, last):
    layers = _layers(create_model(name, num_classes=10))
    assert (layers["fc.bias"], max(layers.values()), min(layers.values())) == (last, last, 0)


def test_a_decay_by_layers_is_timms_own():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3)
    found = groups_of(model, layer_decay=0.75, weight_decay=0.05, decay_norm_and_bias=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    theirs = timm.optim.param_groups_layer_decay(model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.75)
    expected = {names[id(parameter)]: (0.1 * group["lr_scale"], group["weight_decay"]) for group in theirs for parameter in group["params"]}
    assert found == expected
    assert found["pos_embed"] == (0.1 * 0.75**3, 0.0)
    assert found["head.weight"] == (0.1, 0.05)


def test_the_first_group_that_names_a_parameter_has_it():
    model = net()
    found = groups_of(
        model,
        weight_decay=0.2,
        layer_decay=0.5,
        decay_norm_and_bias=False,
        groups=[
            {"modules": ["body.0.weight", "he*"], "lr": 0.7},
            {"modules": ["body"], "lr_scale": 0.1, "weight_decay": 0.4},
            {"modules": ["*"], "weight_decay": 0.0},
        ],
    )
    assert found["body.0.weight"] == found["head.weight"] == (0.7, 0.2)
    assert found["head.bias"] == (0.7, 0.0), "decay_norm_and_bias holds in groups, too"
    assert found["body.0.bias"] == (0.1 * (0.1 * 0.25), 0.0)
    assert found["body.1.weight"] == (0.1 * (0.1 * 0.5), 0.4)
    assert found["stem.weight"] == (0.1 * 0.125, 0.0)


def test_parameters_with_no_rate_stay_as_they_are_and_statistics_move():
    groups = [{"modules": ["stem", "norm"], "lr_scale": 0.0}]
    _, data, group, train_step = build(recipe_of({"name": "adamw", "lr": 0.1, "weight_decay": 0.5, "groups": groups}))
    model = group.peers["a"].model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    group.train()
    for update, window in enumerate(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)):
        train_step(window, update, measure=False)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "body.weight",
        "body.bias",
        "head.weight",
        "head.bias",
    }
    data.close()


def test_parameters_that_are_not_the_models_have_the_rate_of_the_last_layer():
    model, adapter = net(), nn.Linear(2, 2)
    spec = Optimizer(lr=0.1, layer_decay=0.5, groups=[{"modules": ["*"], "lr_scale": 0.5}])
    groups = parameter_groups(spec, [*model.parameters(), *adapter.parameters()], model)
    (own,) = [group for group in groups if any(each is adapter.weight for each in group["params"])]
    assert "lr" not in own
    assert len(own["params"]) == 2


def recipe_of(optimizer, **sections):
    return tiny_document(peers=PEER, objectives=[CE], optimizer=optimizer, **sections)


@pytest.mark.parametrize(
    ("where", "groups", "message"),
    [
        (
            "optimizer",
            [{"modules": ["haed"], "lr": 0.1}],
            r"peer 'a' \(support:tiny\) has no module 'haed' .*; near: head",
        ),
        ("optimizer", [{"modules": ["head"], "lr": 1.0}, {"modules": ["*.q"], "lr": 1.0}], r"optimizer.groups.1.modules: .*'\*.q'"),
        ("peers.a.optimizer", [{"modules": ["haed"], "lr": 0.1}], r"peers.a.optimizer.groups.0.modules: .* near: head"),
        ("optimizer", [{"modules": ["head"], "lr": 0.1, "lr_scale": 2.0}], r"groups.0.lr_scale: lr says the rate already"),
        ("optimizer", [{"modules": ["head"]}], r"groups.0: changes nothing; give lr, lr_scale or weight_decay"),
        ("optimizer", [{"modules": ["head..x"], "lr": 0.1}], r"groups.0.modules: 'head..x' is no path of a module"),
    ],
)
def test_a_group_that_names_nothing_is_refused(where, groups, message):
    optimizer = {"name": "sgd", "groups": groups}
    document = recipe_of(optimizer if where == "optimizer" else {})
    if where == "peers.a.optimizer":
        document["peers"] = {"a": {**PEER["a"], "optimizer": optimizer}}
    with pytest.raises(RecipeError, match=message):
        build(document)


def by_hand(model, groups, build_optimizer, batches, factors, *, clip=None):
    """A plain loop of torch, whose groups are written down."""
    parameters = dict(model.named_parameters())
    optimizer = build_optimizer([{"params": [parameters[name] for name in names], **fields} for names, fields in groups])
    bases = [group["lr"] for group in optimizer.param_groups]
    model.train()
    for (images, labels), factor in zip(batches, factors, strict=True):
        for group, base in zip(optimizer.param_groups, bases, strict=True):
            group["lr"] = factor * base
        F.cross_entropy(model(images), labels).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("form", [{}, {"fused": True}, {"foreach": True}])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_an_update_is_that_of_a_loop_written_by_hand(form, schedule):
    """Bit for bit where the schedule is 1, as a factor is."""
    fields = {"name": "adamw", "lr": 0.02, "weight_decay": 0.1, "decay_norm_and_bias": False, "layer_decay": 0.75, **form}
    fields["groups"] = [{"modules": ["head"], "lr": 0.05}, {"modules": ["body"], "lr_scale": 0.1, "weight_decay": 0.3}]
    train = {"epochs": 1, "progress": False, "clip_grad_norm": 0.5}
    _, data, group, train_step = build(recipe_of(fields, schedule={"name": schedule}, train=train))
    model = create_model("support:tiny", num_classes=4, in_channels=1, norm=True)
    model.load_state_dict(group.peers["a"].model.state_dict())
    group.train()
    batches, factors = [], []
    for update, window in enumerate(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)):
        (batch,) = window.batches
        batches.append(inputs_of(batch, data.info))
        factors.append(1.0 if schedule == "constant" else (1 + math.cos(math.pi * update / 5)) / 2)
        train_step(window, update, measure=False)
    stem = 0.02 * 0.75**2
    groups = [
        (["stem.weight"], {"lr": stem, "weight_decay": 0.1}),
        (["stem.bias", "norm.weight", "norm.bias"], {"lr": stem, "weight_decay": 0.0}),
        (["body.weight"], {"lr": 0.02 * (0.1 * 0.75), "weight_decay": 0.3}),
        (["body.bias"], {"lr": 0.02 * (0.1 * 0.75), "weight_decay": 0.0}),
        (["head.weight"], {"lr": 0.05, "weight_decay": 0.1}),
        (["head.bias"], {"lr": 0.05, "weight_decay": 0.0}),
    ]
    by_hand(model, groups, lambda each: torch.optim.AdamW(each, lr=0.02, **form), batches, factors, clip=0.5)
    tolerance = 0 if schedule == "constant" else 1e-6
    torch.testing.assert_close(dict(group.peers["a"].model.state_dict()), model.state_dict(), rtol=tolerance, atol=tolerance)
    data.close()


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_a_run_with_groups_goes_on_from_its_checkpoints_as_it_went(tmp_path, precision):
    fields = {"name": "adamw", "lr": 0.02, "layer_decay": 0.5, "groups": [{"modules": ["body"], "lr": 0.5, "weight_decay": 0.0}]}
    objectives = [CE, {"loss": "hint", "at": "body", "sources": ["b"], "learners": ["a"]}]
    document = recipe_of(fields, checkpoint={"every_steps": 1, "keep": 100}, schedule={"name": "cosine"})
    document |= {"peers": {**PEER, "b": PEER["a"]}, "objectives": objectives, "train": {**document["train"], "precision": precision}}
    document["train"]["log_every"] = 1
    whole = mutual.fit(parse_recipe({**document, "output": str(tmp_path / "whole")})).folder
    folder = shutil.copytree(whole, tmp_path / "cut" / "tiny")
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > 3:
            shutil.rmtree(path)
    mutual.fit(parse_recipe({**document, "output": str(tmp_path / "cut")}), resume=True)
    assert digests(folder) == digests(whole)


def test_the_charts_have_the_rate_and_its_bounds(tmp_path):
    fields = {"lr": 0.1, "layer_decay": 0.5, "groups": [{"modules": ["head"], "lr": 0.4}]}
    document = recipe_of(fields, output=str(tmp_path))
    folder = mutual.fit(parse_recipe({**document, "train": {"epochs": 1, "progress": False}})).folder
    events = charted(folder)
    found = {tag: events[f"optimizer/{tag}/a"][-1].value for tag in ("learning_rate", "learning_rate_lowest", "learning_rate_highest")}
    assert found == pytest.approx({"learning_rate": 0.1, "learning_rate_lowest": 0.025, "learning_rate_highest": 0.4})
    assert json.loads((folder / "metrics.jsonl").read_text())["epoch"] == 1
