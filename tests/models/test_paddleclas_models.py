"""PaddleClas' models agree with PaddleClas itself: names and shapes of all tensors, outputs on the same weights."""

import hashlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from paddle_files import GOLDEN, OUTPUTS, formula_images, formula_state, our_name, paddle_shapes, write_pdparams

from mutual.models import create_model, is_in_zoo
from mutual.models.zoo import MODELS

THEIRS = json.loads((GOLDEN / "paddleclas_models.json").read_text())


@pytest.mark.parametrize("name", THEIRS)
def test_tensors_have_the_references_names_and_shapes(name):
    with torch.device("meta"):
        model = MODELS[our_name(name)](num_classes=1000)
    lines = sorted(f"{name} {shape}" for name, shape in paddle_shapes(model).items())
    assert sum(parameter.numel() for parameter in model.parameters()) == THEIRS[name]["params"]
    assert len(lines) == THEIRS[name]["tensors"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == THEIRS[name]["sha256"]


def test_all_of_them_are_in_the_zoo():
    assert {our_name(name) for name in THEIRS} == {name for name in MODELS if name.startswith(("paddleclas/", "pplcnet"))}
    assert all(is_in_zoo(our_name(name)) for name in THEIRS)


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_the_deep_ones_have_as_many_parameters_as_torchvisions(depth):
    import torchvision.models

    with torch.device("meta"):
        model, theirs = MODELS[f"paddleclas/ResNet{depth}"](num_classes=1000), torchvision.models.get_model(f"resnet{depth}")
    assert sum(each.numel() for each in model.parameters()) == sum(each.numel() for each in theirs.parameters())


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_and_features_agree_with_the_reference(name, tmp_path):
    args, size = OUTPUTS[name]
    golden = np.load(GOLDEN / f"paddleclas_{name}.npz")
    model = create_model(our_name(name), num_classes=10, **args)
    path = write_pdparams(tmp_path / "theirs.pdparams", formula_state(paddle_shapes(model)))
    model = create_model(our_name(name), num_classes=10, weights=str(path), **args).eval()
    found = {}
    for key in golden.files:
        if key.startswith("feature."):
            model.get_submodule(key.removeprefix("feature.")).register_forward_hook(
                lambda _module, _inputs, output, key=key: found.update({key: output[:, ::7, ::2, ::2]})
            )
    with torch.no_grad():
        found["logits"] = model(torch.from_numpy(formula_images(size)))
    assert found.keys() == set(golden.files)
    for key, value in found.items():
        expected = torch.from_numpy(golden[key])
        assert (value - expected).norm() / expected.norm() < 1e-5, key


def test_the_classifier_in_training_is_the_references_on_the_same_mask(tmp_path):
    """Theirs multiplies by the mask alone, ours divides by 1 - p as well; the converted weights make up for it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("pplcnet_x0_25", num_classes=10)
        state = formula_state(paddle_shapes(model))
        path = write_pdparams(tmp_path / "theirs.pdparams", state)
        model = create_model("pplcnet_x0_25", num_classes=10, weights=str(path))
        embedding = torch.rand(4, 1280)
        kept = model.dropout.train()(embedding)
    theirs = F.linear(embedding * (kept != 0), torch.from_numpy(state["fc.weight"]).T, torch.from_numpy(state["fc.bias"]))
    torch.testing.assert_close(model.fc(kept), theirs)


def test_they_start_as_the_reference_does():
    torch.manual_seed(0)
    mobilenet = create_model("paddleclas/MobileNetV3_large_x1_0", num_classes=1000)
    depthwise = torch.cat([unit.bottleneck_conv.conv.weight.flatten() * unit.bottleneck_conv.conv.weight[0].numel() ** 0.5
                           * unit.bottleneck_conv.conv.groups**0.5 for unit in mobilenet.blocks])  # fmt: skip
    assert depthwise.std().item() == pytest.approx(2**0.5, rel=0.02), "Paddle counts all channels, whatever the groups are"
    assert mobilenet.fc.weight.abs().max().item() == pytest.approx((6 / 2280) ** 0.5, rel=0.01)
    assert not mobilenet.fc.bias.any()
    assert not mobilenet.blocks[3].mid_se.conv1.bias.any()
    resnet = create_model("paddleclas/ResNet18_vd", num_classes=1000)
    assert resnet.blocks[7].conv1.conv.weight.std().item() == pytest.approx((2 / 4608) ** 0.5, rel=0.02)
    assert resnet.fc.weight.abs().max().item() == pytest.approx(512**-0.5, rel=0.01)
    assert not resnet.fc.bias.any()


def test_what_differs_from_torchvisions():
    resnet = create_model("paddleclas/ResNet18", num_classes=2, in_channels=1)
    assert resnet.blocks[0].short.conv.weight.shape == (64, 64, 1, 1)
    assert resnet.stem[0].conv.in_channels == 1
    assert not hasattr(create_model("paddleclas/ResNet18", num_classes=2, use_first_short_conv=False).blocks[0].short, "conv")
    assert isinstance(create_model("paddleclas/ResNet18_vd", num_classes=2, stem_act=None).stem[0].relu, torch.nn.Identity)
    assert create_model("paddleclas/MobileNetV3_small_x0_35", num_classes=2, dropout_prob=None, class_expand=64).fc.in_features == 64


@pytest.mark.parametrize("name", ["paddleclas/ResNet18_vd", "paddleclas/MobileNetV3_small_x0_35"])
@pytest.mark.parametrize("side", [32, 33, 1])
def test_small_images_are_classified(name, side):
    model = create_model(name, num_classes=3, in_channels=1).eval()
    assert model(torch.zeros(2, 1, side, side)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("paddleclas/ResNet81", {}, "'paddleclas/ResNet81' is no model; did you mean 'paddleclas/ResNet18'"),
        ("paddleclas/ResNet18", {"stride_list": [2, 2]}, r"stride_list \[2, 2\] has 2 strides; it needs five"),
        ("paddleclas/ResNet18", {"stem_act": "gelu"}, "stem_act 'gelu' is neither relu nor null"),
        ("paddleclas/ResNet18", {"strides": (1,)}, "takes no argument 'strides'"),
        ("paddleclas/ResNet18", {"use_ssld": "yes"}, "use_ssld 'yes' is neither true nor false"),
        ("small_cnn", {"use_ssld": True}, "small_cnn takes no argument 'use_ssld'"),
    ],
)
def test_a_mistake_in_their_arguments_is_one_line(name, args, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_model(name, num_classes=4, **args)
    assert "\n" not in str(caught.value)
