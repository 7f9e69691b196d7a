"""Activation checkpointing: less is saved, and nothing else differs."""

import copy

import pytest
import torch
from support import TinyNet
from torch import nn

from mutual.engine.costs.memory import saved_bytes
from mutual.group.peers import TappedModel, checkpoint_activations
from mutual.models import create_model


class Block(nn.Module):
    """Draws, counts in BatchNorm statistics, and has a vector that every forward moves."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.3)

    def forward(self, hidden):
        return hidden + self.dropout(torch.tanh(self.norm(self.conv(hidden))))


class Stage(nn.Module):
    """Two blocks as one module."""

    def __init__(self, width):
        super().__init__()
        self.down = nn.Conv2d(width, width, 1)
        self.blocks = nn.ModuleList([Block(width), Block(width)])

    def forward(self, hidden):
        hidden = self.down(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.chain = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.stages = nn.Sequential(nn.Sequential(Block(4), Block(4)), Block(4), Stage(4))
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.stages(self.chain(self.stem(images))).mean(dim=(2, 3)))


PATHS = ["chain.1", "stages.0", "stages.0.1.conv", "stages.1.norm:input"]


def update(make, *, checkpointed, paths=PATHS, size=8):
    """Outputs, gradients and buffers of two forwards and backwards, and the number of tensors that the hooks have kept."""
    torch.manual_seed(0)
    model = make().double().train()
    if checkpointed:
        checkpoint_activations(model)
    tapped = TappedModel(model, paths)
    results = []
    for seed in range(2):
        torch.manual_seed(seed)
        images = torch.randn(3, next(model.parameters()).shape[1], size, size, dtype=torch.float64)
        outputs = tapped(images)
        sum(output.sin().sum() for output in outputs.values()).backward()
        results += [*outputs.values(), torch.get_rng_state()]
        assert outputs.keys() == {"logits", *paths}
        assert tapped._features is None, "what runs once more is not tapped"
    results += [parameter.grad for parameter in model.parameters()]
    return {**dict(enumerate(results)), **model.state_dict()}


@pytest.mark.parametrize("make", [Net, lambda: create_model("pplcnet_x0_25", num_classes=3, in_channels=1)])
def test_outputs_gradients_buffers_and_draws_are_the_same(make):
    paths = PATHS if make is Net else ["blocks3.0.pw_conv", "blocks5"]
    plain, checkpointed = (update(make, checkpointed=flag, paths=paths, size=8 if make is Net else 32) for flag in (False, True))
    assert plain.keys() == checkpointed.keys()
    for key, value in plain.items():
        assert torch.equal(value, checkpointed[key]), key


def saved(model):
    return saved_bytes(lambda: [model.train()(torch.zeros(2, 3, 32, 32))], model.parameters())


@pytest.mark.parametrize(
    ("name", "fraction"),
    [
        ("torchvision/resnet18", 0.55),
        ("pplcnet_x0_25", 0.4),
        ("timm/vit_tiny_patch16_224", 0.2),
        ("small_cnn", 0.55),
        ("paddleclas/ResNet18_vd", 0.7),
        ("paddleclas/MobileNetV3_small_x0_35", 0.4),
    ],
)
def test_blocks_keep_their_inputs_alone(name, fraction, monkeypatch):
    args = {"img_size": 32, "depth": 3} if "vit" in name else {}
    model = create_model(name, num_classes=3, in_channels=3, **args)
    before = saved(model)
    checkpoint_activations(model)
    assert 0 < saved(model) < fraction * before
    monkeypatch.setattr("mutual.group.peers.activation_checkpointing.checkpoint", None)
    with torch.no_grad():
        model(torch.zeros(2, 3, 32, 32))


def test_a_copy_runs_blocks_of_its_own():
    model = Net().train()
    checkpoint_activations(model)
    before = copy.deepcopy(model.state_dict())
    twin = copy.deepcopy(model)
    twin(torch.randn(2, 1, 8, 8)).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not torch.equal(twin.stages[1].norm.running_mean, model.stages[1].norm.running_mean)
    assert model.stages[1].conv.bias.grad is None
    assert twin.stages[1].conv.bias.grad is not None


def test_the_innermost_list_of_one_class_holds_the_blocks():
    model = Net()
    checkpoint_activations(model)
    found = [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert found == ["chain", "stages.0.0", "stages.0.1", "stages.1", "stages.2.blocks.0", "stages.2.blocks.1"]


def test_a_model_without_blocks_is_refused():
    for model in (TinyNet(3, 1), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))):
        with pytest.raises(ValueError, match="it has no blocks"):
            checkpoint_activations(model)
