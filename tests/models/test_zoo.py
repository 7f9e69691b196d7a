"""Models by name: PP-LCNet agrees with the reference, the zoos with theirs, mistakes are one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mutual.models import ModelCard, create_model, load_weights, model_bytes, read_card, read_model

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def golden_pplcnet():
    arrays = np.load(GOLDEN / "pplcnet_x0_25_c10.npz")
    state = {}
    for key in arrays.files:
        if key.startswith("state."):
            name = key.removeprefix("state.").replace("_mean", "running_mean").replace("_variance", "running_var")
            state[name] = torch.from_numpy(arrays[key])
    state["fc.weight"] = state["fc.weight"].T * 0.8  # [in, out] there; its dropout keeps 1 - p of the activations in eval mode
    model = create_model("pplcnet_x0_25", num_classes=10).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model, arrays


def test_pplcnet_agrees_with_the_reference_at_every_stage(golden_pplcnet):
    model, arrays = golden_pplcnet
    features = {}
    for name in ("blocks2", "blocks3", "blocks4", "blocks5", "blocks6"):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, output, name=name: features.update({name: output}))
    with torch.no_grad():
        logits = model(torch.from_numpy(arrays["input"]))
    for name, found in {"logits": logits, **features}.items():
        expected = torch.from_numpy(arrays[name if name == "logits" else f"feature.{name}"])
        assert (found - expected).norm() / expected.norm() < 1e-5, name


@pytest.mark.parametrize(("name", "expected"), json.loads((GOLDEN / "pplcnet_params.json").read_text()).items())
def test_pplcnet_has_the_references_parameters(name, expected):
    model = create_model(name, num_classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["params"]
    assert sum(buffer.numel() for buffer in model.buffers() if buffer.is_floating_point()) == expected["bn_buffers"]


@pytest.mark.parametrize(("strides", "size"), [((1, 1, 2, 2, 2), 4), ((1, 1, 1, 1, 1), 32), ((2, 2, 2, 2, 2), 1)])
def test_strides_of_the_stages_are_settable(strides, size):
    model = create_model("pplcnet_x0_25", num_classes=3, in_channels=1, strides=strides).eval()
    features = []
    model.blocks6.register_forward_hook(lambda _m, _i, output: features.append(output))
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    assert features[0].shape[-2:] == (size, size)


def test_pplcnet_starts_as_the_reference_does():
    torch.manual_seed(0)
    model = create_model("pplcnet_x1_0", num_classes=1000)
    assert model.last_conv.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert model.fc.weight.abs().max().item() == pytest.approx((6 / 2280) ** 0.5, rel=0.01)
    assert not model.fc.bias.any()


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_small_cnn(norm):
    model = create_model("small_cnn", num_classes=5, in_channels=1, norm=norm)
    assert model(torch.zeros(2, 1, 14, 14)).shape == (2, 5)


@pytest.mark.parametrize(
    "name",
    ["torchvision/resnet18", "torchvision/mobilenet_v3_small", "torchvision/googlenet", "timm/resnet10t", "timm/mobilenetv3_small_050"],
)
def test_zoo_models_take_grey_images_and_give_plain_logits_in_training(name):
    model = create_model(name, num_classes=7, in_channels=1).train()
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_a_grey_first_convolution_answers_a_grey_image_as_the_colour_one_did():
    torch.manual_seed(0)
    colour = create_model("torchvision/resnet18", num_classes=7).eval()
    torch.manual_seed(0)
    grey = create_model("torchvision/resnet18", num_classes=7, in_channels=1).eval()
    image = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_the_users_own_factory(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, in_channels, width=3):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(9, width), nn.Linear(width, num_classes))\n"
        "def lazy(num_classes, in_channels):\n    return nn.LazyLinear(num_classes)\n"
        "def text(num_classes, in_channels):\n    return 'no module'\n"
    )
    monkeypatch.chdir(tmp_path)
    assert create_model("my_models:net", num_classes=4, in_channels=1, width=2)(torch.zeros(2, 1, 3, 3)).shape == (2, 4)
    with pytest.raises(ValueError, match="no factory 'nett'; did you mean 'net'"):
        create_model("my_models:nett", num_classes=4)
    with pytest.raises(ValueError, match=r"gave a str, not a torch.nn.Module"):
        create_model("my_models:text", num_classes=4)
    with pytest.raises(ValueError, match="has lazy modules"):
        create_model("my_models:lazy", num_classes=4)
    with pytest.raises(ValueError, match="takes no argument 'widht'; did you mean 'width'"):
        create_model("my_models:net", num_classes=4, widht=2)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("pplcnet_x1_1", {}, "'pplcnet_x1_1' is no model; did you mean 'pplcnet_x1_"),
        ("torchvision/resnet81", {}, "no classifier of torchvision; did you mean 'resnet18'"),
        ("timm/resnet81", {}, "no model of timm; did you mean 'resnet"),
        ("resnet18", {}, "'resnet18' is no model; did you mean .*/resnet18"),
        ("no_such_package_at_all:net", {}, "cannot import 'no_such_package_at_all'"),
        ("pplcnet_x0_25", {"stride": 2}, "takes no argument 'stride'; did you mean 'strides'"),
        ("pplcnet_x0_25", {"strides": (1, 2)}, r"strides \[1, 2\] are 2; PP-LCNet has five"),
        ("small_cnn", {"weights": "pretrained"}, "has no pretrained weights; give the path"),
        ("small_cnn", {"weights": "no/such.safetensors"}, "no weights file no/such.safetensors"),
        ("torchvision/resnet18", {"replace_stride": 1}, "resnet18.*replace_stride"),
        ("torchvision/resnet18", {"pretrained": True}, "takes no argument 'pretrained' here; write `weights: pretrained` beside the model"),
        ("timm/resnet10t", {"pretrained": True}, "takes no argument 'pretrained' here; write `weights: pretrained` beside the model"),
        ("small_cnn", {"name": "x"}, "small_cnn takes no argument 'name'"),
        ("small_cnn", {"factory": "x"}, "small_cnn takes no argument 'factory'"),
        ("torchvision/resnet18", {"name": "x"}, "resnet18.*name"),
        ("timm/resnet10t", {"name": "x"}, "resnet10t.*name"),
    ],
)
def test_a_mistake_is_one_line(name, args, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_model(name, num_classes=4, **args)
    assert "\n" not in str(caught.value)


@pytest.fixture
def net():
    torch.manual_seed(1)
    return create_model("small_cnn", num_classes=4, in_channels=1)


CARD = ModelCard("small_cnn", 4, 1, (14, 14), (0.1,), (0.2,), ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}, "epoch": 3}]
)
def test_torch_checkpoints_plain_nested_and_prefixed(net, tmp_path, wrap):
    torch.save(wrap(net.state_dict()), tmp_path / "net.pth")
    other = create_model("small_cnn", num_classes=4, in_channels=1)
    load_weights(other, tmp_path / "net.pth")
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_a_card_rebuilds_the_model(net, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(model_bytes(net, CARD))
    model, card = read_model(tmp_path / "net.safetensors")
    assert card == CARD == read_card(tmp_path / "net.safetensors")
    assert not model.training
    images = torch.randn(2, 1, 14, 14)
    assert torch.equal(model(images), net.eval()(images))


def test_weights_that_do_not_fit_are_one_line(net, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(model_bytes(net, CARD))
    with pytest.raises(ValueError, match="class counts differ: the file has 4, the model 6"):
        create_model("small_cnn", num_classes=6, in_channels=1, weights=str(tmp_path / "net.safetensors"))
    with pytest.raises(ValueError, match=r"other shapes: blocks1.0.weight is \(16, 1, 3, 3\), the model's \(16, 3, 3, 3\)"):
        create_model("small_cnn", num_classes=4, in_channels=3, weights=str(tmp_path / "net.safetensors"))
    with pytest.raises(ValueError, match=r"another model: \d+ missing \(conv1.conv.weight, .*\d+ unexpected"):
        create_model("pplcnet_x0_25", num_classes=4, weights=str(tmp_path / "net.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(model_bytes(net, CARD)[:100])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load_weights(net, tmp_path / "torn.safetensors")


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_is_unpickled_but_plain_tensors(net, tmp_path, capsys):
    """Invariant 10."""
    torch.save({"state_dict": net.state_dict(), "extra": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="no torch checkpoint of plain tensors"):
        load_weights(net, tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


def test_a_lazy_or_plain_module_is_a_module():
    assert isinstance(create_model("pplcnet_x0_25", num_classes=2), nn.Module)
