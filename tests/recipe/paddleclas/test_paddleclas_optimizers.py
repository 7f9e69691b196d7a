"""The section Optimizer of a config: what each optimizer says, which parameters it spares, whose it is, and what is an error."""

import pytest
import torch
from support import build, tiny_document
from torch import nn

from mutual.engine.training.parameter_groups import parameter_groups
from mutual.engine.training.peer_optimizer import build_optimizer
from mutual.recipe import Optimizer, RecipeError, check_section, parse_recipe
from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.optimizers import convert_optimizer
from mutual.recipe.paddleclas.section import Notes, Section

LR = {"learning_rate": 0.1}


def model(name="Student", *, frozen=False, **more):
    return Model(name, {"model": "m"} | ({"frozen": True} if frozen else {}), 10, **more)


def convert(optimizer, *models):
    """The sections of a recipe that an optimizer gives, and its notes."""
    root = Section({} if optimizer is None else {"Optimizer": optimizer}, "", Notes())
    found = convert_optimizer(root, models or (model(),))
    root.name_untaken()
    if "optimizer" in found:
        check_section(Optimizer, found["optimizer"])
    return found, root.notes


def optimizer_of(name, *models, **fields):
    found, notes = convert({"name": name, "lr": LR, **fields}, *models)
    assert notes.left_out == []
    return found["optimizer"]


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("SGD", {}, {"name": "sgd"}),
        ("SGD", {"weight_decay": 0.01}, {"name": "sgd", "weight_decay": 0.01}),
        ("Momentum", {}, {"name": "sgd", "momentum": 0.9}),
        ("Momentum", {"momentum": 0.8, "use_nesterov": True, "multi_precision": True}, {"name": "sgd", "momentum": 0.8, "nesterov": True}),
        ("Momentum", {"regularizer": {"name": "L2", "coeff": "1e-4"}}, {"name": "sgd", "weight_decay": 1e-4, "momentum": 0.9}),
        ("Adam", {}, {"name": "adam", "betas": [0.9, 0.999], "eps": 1e-8}),
        ("Adam", {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-5, "lazy_mode": True}, {"name": "adam", "betas": [0.5, 0.9], "eps": 1e-5}),
        ("AdamW", {"weight_decay": 0.05}, {"name": "adamw", "weight_decay": 0.05, "betas": [0.9, 0.999], "eps": 1e-8}),
        (
            "AdamW",
            {"weight_decay": 0.05, "one_dim_param_no_weight_decay": True},
            {"name": "adamw", "weight_decay": 0.05, "decay_norm_and_bias": False, "betas": [0.9, 0.999], "eps": 1e-8},
        ),
        (
            "AdamWDL",
            {"weight_decay": 0.05, "layerwise_decay": 0.65},
            {"name": "adamw", "weight_decay": 0.05, "betas": [0.9, 0.999], "eps": 1e-8, "decay_norm_and_bias": False, "layer_decay": 0.65},
        ),
        ("RMSProp", {}, {"name": "paddle_rmsprop", "momentum": 0.0, "eps": 1e-6, "args": {"alpha": 0.95}}),
        (
            "RMSProp",
            {"momentum": 0.9, "rho": 0.9, "epsilon": 0.001, "regularizer": {"name": "L2", "coeff": 1e-5}},
            {"name": "paddle_rmsprop", "weight_decay": 1e-5, "momentum": 0.9, "eps": 0.001, "args": {"alpha": 0.9}},
        ),
    ],
)
def test_an_optimizer_has_their_defaults(name, fields, expected):
    assert optimizer_of(name, **fields) == {"lr": 0.1, **expected}


@pytest.mark.parametrize("name", ["SGD", "Momentum", "Adam", "AdamW", "AdamWDL", "RMSProp"])
def test_every_optimizer_trains(name):
    found, _ = convert({"name": name, "lr": {"learning_rate": 0.001}, "weight_decay": 0.01, "clip_norm": 0.5})
    document = tiny_document(**found)
    _, data, _, train_step = build({**document, "train": {**document["train"], **found["train"]}})
    (window, *_) = data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)
    train_step(window, 0, measure=False)


def test_the_steps_of_momentum_are_theirs():
    """v = mu v + g + c w; w = w - lr v, and with Nesterov's w = w - lr (g + c w + mu v)."""
    for nesterov in (False, True):
        section = {"name": "Momentum", "momentum": 0.7, "use_nesterov": nesterov, "lr": LR, "regularizer": {"name": "L2", "coeff": 0.2}}
        spec = Optimizer(**convert(section)[0]["optimizer"])
        weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer = build_optimizer(spec, [weight])
        expected, velocity = weight.detach().clone(), torch.zeros(2, dtype=torch.float64)
        for step in range(4):
            gradient = torch.tensor([0.3 * step, 1.0], dtype=torch.float64)
            decayed = gradient + 0.2 * expected
            velocity = 0.7 * velocity + decayed
            expected = expected - 0.1 * (decayed + 0.7 * velocity if nesterov else velocity)
            weight.grad = gradient
            optimizer.step()
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=0)


def test_the_steps_of_rmsprop_are_theirs():
    """v = rho v + (1 - rho) g g; u = mu u + lr g / sqrt(v + eps); w = w - u, of a rate that changes."""
    section = {"name": "RMSProp", "momentum": 0.9, "rho": 0.8, "epsilon": 0.01, "lr": LR, "regularizer": {"name": "L2", "coeff": 0.2}}
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    unused = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = build_optimizer(Optimizer(**convert(section)[0]["optimizer"]), [weight, unused])
    expected, square, velocity = weight.detach().clone(), torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for step in range(5):
        weight.grad = torch.tensor([0.3 * step, 1.0], dtype=torch.float64)
        decayed = weight.grad + 0.2 * expected
        square = 0.8 * square + 0.2 * decayed**2
        velocity = 0.9 * velocity + 0.1 / (step + 1) * decayed / (square + 0.01).sqrt()
        expected = expected - velocity
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=0)
    assert unused.item() == 1


NET = nn.ModuleDict(
    {
        "blocks1": nn.ModuleDict({"conv": nn.Conv2d(1, 2, 1, bias=False), "bn": nn.BatchNorm2d(2)}),
        "blocks10": nn.ModuleDict({"conv": nn.Conv2d(2, 2, 1, bias=False), "bn": nn.BatchNorm2d(2)}),
        "fc": nn.Linear(2, 3),
    }
)


def decays(optimizer, *, rate=0.1):
    """By the parameter's name its rate and its weight decay."""
    names = {id(parameter): name for name, parameter in NET.named_parameters()}
    groups = parameter_groups(Optimizer(**optimizer), list(NET.parameters()), NET)
    return {names[id(each)]: (group.get("lr", rate), group["weight_decay"]) for group in groups for each in group["params"]}


def spared(optimizer):
    return {name for name, (_, decay) in decays(optimizer).items() if decay == 0}


BATCHNORM = {f"{block}.bn.{kind}" for block in ("blocks1", "blocks10") for kind in ("weight", "bias")}
FC = {"fc.weight", "fc.bias"}
L2 = {"regularizer": {"name": "L2", "coeff": 0.01}}


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("Momentum", L2, BATCHNORM),
        ("SGD", {"weight_decay": 0.01}, BATCHNORM),
        ("RMSProp", L2, BATCHNORM),
        ("Adam", L2, BATCHNORM),
        ("AdamW", {"weight_decay": 0.01}, set()),
        ("AdamW", {"weight_decay": 0.01, "one_dim_param_no_weight_decay": True}, BATCHNORM | {"fc.bias"}),
        (
            "AdamW",
            {"weight_decay": 0.01, "no_weight_decay_name": "fc .bn.b cls_token"},
            FC | {"blocks1.bn.bias", "blocks10.bn.bias"},
        ),
        ("Momentum", {**L2, "no_weight_decay_name": "fc"}, BATCHNORM | FC),
        ("RMSProp", {**L2, "one_dim_param_no_weight_decay": True}, BATCHNORM | {"fc.bias"}),
        ("AdamWDL", {"weight_decay": 0.01}, BATCHNORM | {"fc.bias"}),
    ],
)
def test_the_parameters_that_theirs_spares_are_spared(name, fields, expected):
    """A regularizer of a parameter's own takes it out of an L2 penalty, and means nothing to a decoupled decay."""
    assert spared(optimizer_of(name, model(undecayed=("*.bn",)), **fields)) == expected


def test_without_weight_decay_nobody_is_spared():
    assert "groups" not in optimizer_of("Momentum", model(undecayed=("*.bn",)), no_weight_decay_name="fc")


def test_a_module_of_its_own_rate_spares_its_batchnorm_too():
    """blocks1 is no part of blocks10."""
    lr_scales = ({"modules": ["blocks1"], "lr_scale": 0.5}, {"modules": ["fc"], "lr_scale": 2.0})
    found = decays(optimizer_of("Momentum", model(undecayed=("*.bn", "fc.bias"), lr_scales=lr_scales), **L2))
    assert found == {
        "blocks1.conv.weight": (0.05, 0.01),
        **dict.fromkeys(("blocks1.bn.weight", "blocks1.bn.bias"), (0.05, 0.0)),
        "blocks10.conv.weight": (0.1, 0.01),
        **dict.fromkeys(("blocks10.bn.weight", "blocks10.bn.bias"), (0.1, 0.0)),
        "fc.weight": (0.2, 0.01),
        "fc.bias": (0.2, 0.0),
    }
    found = decays(optimizer_of("Momentum", model(undecayed=("blocks1",), lr_scales=({"modules": ["blocks1.bn"], "lr_scale": 0.5},)), **L2))
    assert found["blocks1.bn.bias"] == (0.05, 0.0)
    assert found["blocks1.conv.weight"] == (0.1, 0.0)
    apart = model(undecayed=("blocks1",), lr_scales=({"modules": ["fc"], "lr_scale": 2.0},))
    assert [group["modules"] for group in optimizer_of("Momentum", apart, **L2)["groups"]] == [["fc"], ["blocks1"]]


def test_what_their_momentum_passes_over_is_said():
    found, notes = convert({"name": "Momentum", "lr": LR, **L2, "one_dim_param_no_weight_decay": True})
    assert "decay_norm_and_bias" not in found["optimizer"]
    assert notes.remarks == ["Optimizer.one_dim_param_no_weight_decay: their Momentum heeds it beside no_weight_decay_name alone"]


def test_a_regularizer_goes_before_weight_decay():
    found, notes = convert({"name": "Momentum", "lr": LR, **L2, "weight_decay": 0.5})
    assert found["optimizer"]["weight_decay"] == 0.01
    assert notes.remarks == ["Optimizer.weight_decay: passed over, as there is a regularizer"]


def test_each_peer_has_its_own_groups_where_peers_differ():
    models = [
        model("Teacher", frozen=True, undecayed=("*.t",)),
        model("A", undecayed=("*.bn",)),
        model("B"),
        model("C", undecayed=("*.bn",)),
    ]
    found, _ = convert({"name": "Momentum", "lr": LR, **L2}, *models)
    assert found["optimizer"]["groups"] == [{"modules": ["*.bn"], "weight_decay": 0.0}]
    plain = {key: value for key, value in found["optimizer"].items() if key != "groups"}
    assert [each.document.get("optimizer") for each in models] == [None, None, plain, None]
    assert not any("schedule" in each.document for each in models)


def test_scopes_are_the_peers_optimizers():
    models = [model("Teacher"), model("Student")]
    entries = [
        {"Momentum": {"scope": "Student", "lr": {"name": "Cosine", "learning_rate": 0.2}}},
        {"SGD": {"scope": "Teacher", "lr": LR}},
        {"AdamW": {"scope": "CenterLoss", "lr": LR}},
    ]
    found, notes = convert(entries, *models)
    assert (found["optimizer"], found["schedule"]) == ({"name": "sgd", "lr": 0.1}, {"name": "constant"})
    assert models[1].document["optimizer"] == {"name": "sgd", "lr": 0.2, "momentum": 0.9}
    assert models[1].document["schedule"] == {"name": "cosine"}
    assert [line.split(";")[0] for line in notes.left_out] == [
        "Optimizer.2.AdamW.scope: 'CenterLoss': a loss's parameters are trained by their learner's optimizer"
    ]


@pytest.mark.parametrize("scope", [None, "all", "DistillationModel"])
def test_a_scope_of_everything_trains_every_peer(scope):
    models = [model("Teacher", frozen=True), model("A"), model("B")]
    entry = {"SGD": {"lr": LR} | ({"scope": scope} if scope else {})}
    assert convert([entry], *models)[0]["optimizer"] == {"name": "sgd", "lr": 0.1}
    assert not any("optimizer" in each.document for each in models)


def test_clipping_is_of_each_parameter_or_of_each_peer():
    assert convert({"name": "SGD", "lr": LR, "clip_norm": 5})[0]["train"] == {"clip_parameter_norm": 5}
    clip = {"name": "ClipGradByNorm", "clip_norm": 2.0}
    assert convert({"name": "SGD", "lr": LR, "grad_clip": clip})[0]["train"] == {"clip_parameter_norm": 2.0}
    clip = {"name": "ClipGradByGlobalNorm", "clip_norm": 1.0}
    found, notes = convert({"name": "SGD", "lr": LR, "grad_clip": clip}, model("A"), model("B"))
    assert found["train"] == {"clip_grad_norm": 1.0}
    assert notes.remarks == ["Optimizer.grad_clip.clip_norm: each peer's gradient has a norm of its own; theirs is of all models together"]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"regularizer": {"name": "L1", "coeff": 0.1}}, "Optimizer.regularizer.coeff: 0.1: no optimizer here adds the sign"),
        (
            {"grad_clip": {"name": "ClipGradByValue", "max": 1.0}},
            "Optimizer.grad_clip.name: 'ClipGradByValue': gradients are clipped",
        ),
        ({"use_nesterov": True}, "Optimizer.use_nesterov: true: has no counterpart"),
    ],
)
def test_what_has_no_counterpart_is_named(fields, line):
    _, notes = convert({"name": "SGD", "lr": LR, **fields})
    assert notes.left_out[0].startswith(line)


@pytest.mark.parametrize(
    ("optimizer", "path", "message"),
    [
        ({"lr": LR}, "Optimizer.name", "is missing"),
        ({"name": "Lamb", "lr": LR}, "Optimizer.name", "nothing here stands for the optimizer 'Lamb'"),
        ({"name": "Momentun", "lr": LR}, "Optimizer.name", "did you mean 'Momentum'"),
        ({"name": "AdamW", "lr": LR, **L2}, "Optimizer.regularizer", "their AdamW takes none; write weight_decay"),
        ({"name": "SGD", "lr": LR, "regularizer": {"name": "L3"}}, "Optimizer.regularizer.name", "'L3' is neither L2 nor L1"),
        ({"name": "SGD"}, "Optimizer.lr", "is missing"),
        ({"name": "SGD", "lr": LR, "weight_decay": "little"}, "Optimizer.weight_decay", "'little' is no number"),
        ([{"SGD": {"scope": "A", "lr": LR}}], "Optimizer", "no entry's scope has the model B, which is trained"),
        ([{"SGD": {"lr": LR}}, {"SGD": {"scope": "A", "lr": LR}}], "Optimizer.1.SGD.scope", "A has an optimizer already"),
        (
            [{"SGD": {"scope": "A", "lr": LR, "clip_norm": 1.0}}, {"SGD": {"scope": "B", "lr": LR}}],
            "Optimizer",
            "A and B are clipped differently",
        ),
        ({"name": "SGD", "lr": LR, "grad_clip": {"name": "ClipGradByNorm"}}, "Optimizer.grad_clip.clip_norm", "is missing"),
        (3, "Optimizer", "3 is no mapping"),
    ],
)
def test_an_optimizer_that_cannot_be_is_one_line(optimizer, path, message):
    with pytest.raises(RecipeError, match=message) as caught:
        convert(optimizer, model("A"), model("B"))
    assert [fault.path for fault in caught.value.faults] == [path]


def test_frozen_models_have_no_optimizer():
    assert convert({"name": "SGD", "lr": LR}, model("Teacher", frozen=True))[0] == {}


def test_a_config_without_an_optimizer_has_the_default_and_says_so():
    found, notes = convert(None)
    assert found == {}
    assert notes.remarks[0].startswith("Optimizer: there is none")
    assert parse_recipe(tiny_document(**found))
