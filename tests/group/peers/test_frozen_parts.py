"""Parts of a peer that do not train: no gradient, eval mode whatever calls `train()`, in copies too; the rest trains as ever."""

import copy
from types import SimpleNamespace

import pytest
import torch
from support import IDENTITY, TinyNet
from torch import nn

from mutual.group import MovingAverage, Peer, TappedModel, float_buffers
from mutual.group.peers.frozen_parts import freeze_parts, frozen_buffers


class Tower(nn.Module):
    """Two stages and a head, with BatchNorm and dropout in each, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.stages = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)) for _ in range(12)])
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, vectors):
        for stage in self.stages:
            vectors = stage(vectors) * self.scale
        return self.head(vectors)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def in_training(model):
    return {name for name, module in model.named_modules() if module.training}


@pytest.mark.parametrize(
    ("options", "parameters", "modes"),
    [
        (
            {"freeze": ["stages.1"]},
            {"scale", "stages.0.0.weight", "stages.11.0.weight", "head.1.weight"},
            {"", "stages", "stages.0", "head"},
        ),
        ({"train_only": ["head"]}, {"head.1.weight", "head.1.bias"}, {"", "head", "head.0", "head.1"}),
        ({"train_only": ["stages.1", "scale"]}, {"scale", "stages.1.0.weight"}, {"", "stages", "stages.1", "stages.1.2"}),
        ({"freeze": ["scale"]}, {"stages.1.0.weight"}, {"stages.1.1"}),
    ],
)
def test_what_is_named_and_what_it_contains(options, parameters, modes):
    model = Tower()
    freeze_parts(model, **options)
    frozen_at_once = {name for name, _ in model.named_modules()} - in_training(model)
    model.train()
    assert {name for name, _ in model.named_modules()} - in_training(model) == frozen_at_once
    given = options.get("train_only") or options["freeze"]
    inside = {name for name, _ in Tower().named_parameters() if any(name == path or name.startswith(f"{path}.") for path in given)}
    expected = inside if "train_only" in options else {name for name, _ in Tower().named_parameters()} - inside
    assert trained(model) == expected
    assert parameters <= expected
    assert modes <= in_training(model)
    for name, module in model.named_modules():
        tensors = [*module.parameters()]
        if tensors and not any(parameter.requires_grad for parameter in tensors):
            assert name not in in_training(model), name


def test_whatever_calls_train():
    model = Tower()
    freeze_parts(model, freeze=["stages.0"])
    for call in (model.train, model.stages.train, model.stages[0].train, model.stages[0][1].train, nn.Sequential(model).train):
        call()
        assert not model.stages[0].training
        assert not model.stages[0][1].training
    assert model.stages[0].train() is model.stages[0].train(mode=True) is model.stages[0]
    assert model.train() is model
    assert model.training
    assert model.eval().stages[1].training is False
    assert model.train().stages[1].training


def test_a_copy_stands_for_itself():
    model = Tower()
    freeze_parts(model, freeze=["stages.0"])
    twin = copy.deepcopy(model)
    twin.stages[0][1].training = True
    model.train()
    assert twin.stages[0][1].training, "it is another module"
    twin.train()
    assert not twin.stages[0][1].training
    assert frozen_buffers(twin) == {id(buffer) for buffer in twin.stages[0].buffers()}
    assert frozen_buffers(Tower()) == set()


def test_statistics_and_dropout_of_frozen_parts_rest():
    torch.manual_seed(0)
    model = Tower()
    freeze_parts(model, train_only=["head.1"])
    model.train()
    vectors = torch.randn(8, 4)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    first = model(vectors)
    assert torch.equal(first, model(vectors)), "dropout before the classifier is not named, and so off"
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_tied_parameter_is_trained_where_one_of_its_names_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    freeze_parts(model, freeze=["0"])
    assert model[0].weight.requires_grad
    assert not model[0].bias.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": ["stage"]}, "no module 'stage'; near: stages"),
        ({"freeze": ["stages.0", "hed"]}, "no module 'hed'; near: head"),
        ({"train_only": ["nothing.at.all"]}, "no module 'nothing.at.all'; near: stages, head, scale$"),
        ({"freeze": ["stages.1.x"]}, r"no module 'stages.1.x'; near: stages.1.2, stages.1.1, stages.1.0(, [\w.]+){3}$"),
        ({"freeze": ["stages", "head", "scale"]}, "no parameter is left to train; a peer that only teaches is frozen: true"),
        ({"train_only": ["head.0"]}, "no parameter is left to train"),
        ({"freeze": ["stages.1."]}, "no module 'stages.1.'"),
    ],
)
def test_a_mistake_is_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        freeze_parts(Tower(), **options)


def test_buffers_of_frozen_parts_are_not_averaged():
    """Neither those of the model nor those of its moving average."""
    model = TinyNet(4, 1, norm=True)
    model.register_buffer("other", torch.zeros(2))
    freeze_parts(model, freeze=["norm"])
    peer = Peer("a", TappedModel(model), frozen=False, input=IDENTITY, average=MovingAverage(model, decay=0.9))
    calls = []
    peer.comm = SimpleNamespace(average_buffers=lambda modules, **options: calls.append((modules, options)))
    peer.average_buffers()
    ((modules, options),) = calls
    assert modules == peer.modules
    assert float_buffers(modules, **options) == [peer.model.other, peer.average.model.other]
    assert len(float_buffers(modules)) == 6


def test_nothing_named_changes_nothing():
    freeze_parts(nn.ReLU())
    model = TinyNet(4, 1, norm=True)
    freeze_parts(model)
    assert trained(model) == {name for name, _ in model.named_parameters()}
    assert model.train().norm.training
