"""The tutorials' nets have their tutorials' shapes and sizes; ONE is a gate over branches."""

import pytest
import torch

from mutual.models import create_model


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "args", "side", "parameters"),
    [
        ("deep_nn", {"in_channels": 3}, 32, 1_186_986),
        ("light_nn", {"in_channels": 3}, 32, 267_738),
        ("mlp", {"in_channels": 1, "hidden": [512]}, 28, 784 * 512 + 512 + 512 * 10 + 10),
        ("tensorflow_cnn", {"in_channels": 1}, 28, 93_322),
        ("keras_cnn", {"in_channels": 1}, 28, 256 * 9 + 256 + 256 * 512 * 9 + 512 + 512 * 49 * 10 + 10),
        ("keras_cnn", {"in_channels": 1, "widths": [16, 32]}, 28, 16 * 9 + 16 + 16 * 32 * 9 + 32 + 32 * 49 * 10 + 10),
    ],
)
def test_sizes_are_the_tutorials(name, args, side, parameters):
    model = create_model(name, num_classes=10, **args)
    assert size(model) == parameters
    assert model(torch.zeros(2, args["in_channels"], side, side)).shape == (2, 10)


def test_the_deep_nets_hidden_representation_has_the_light_ones_width():
    deep, light = (create_model(name, num_classes=10).eval() for name in ("deep_nn", "light_nn"))
    images = torch.randn(2, 3, 32, 32)
    assert deep.pooled(deep.flat(deep.features(images))).shape == light.flat(light.features(images)).shape == (2, 1024)


@pytest.mark.parametrize(("activation", "function"), [("relu", torch.relu), ("sigmoid", torch.sigmoid), ("tanh", torch.tanh)])
def test_a_perceptron_has_the_activation_that_it_is_given(activation, function):
    model = create_model("mlp", num_classes=3, in_channels=1, image_size=[4, 4], hidden=[5], activation=activation)
    images = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(model(images), model[-1](function(model[1](images.flatten(1)))))


def test_an_unknown_activation_is_one_line():
    with pytest.raises(ValueError, match=r"mlp cannot be built with .*: activation 'sigmoidal' is unknown; .*'sigmoid'"):
        create_model("mlp", num_classes=3, activation="sigmoidal")


def test_one_is_the_gated_mean_of_its_branches():
    model = create_model("one", num_classes=5, in_channels=1, branches=2).eval()
    images = torch.randn(3, 1, 14, 14)
    maps = model.trunk(images)
    weight = torch.softmax(model.gate(maps.mean(dim=(2, 3))), dim=1)
    expected = weight[:, :1] * model.branches[0](maps) + weight[:, 1:] * model.branches[1](maps)
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("args", [{"branches": 1}, {"widths": [8]}])
def test_a_one_that_cannot_be_is_one_line(args):
    with pytest.raises(ValueError, match=r"take 2 or more|one of each for every layer"):
        create_model("one", num_classes=5, **args)
