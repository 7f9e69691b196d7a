"""Taps read what modules return, under autocast, compilation and DDP, and leave no trace when they go."""

import pytest
import torch
from support import TinyNet
from torch import nn

from mutual.group import Frozen, MovingAverage, TappedModel
from mutual.models import create_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyNet(4, 1, norm=True)


@pytest.fixture
def images():
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_taps_give_what_the_modules_return(model, images):
    outputs = TappedModel(model, ["body", "norm"])(images)
    assert set(outputs) == {"logits", "body", "norm"}
    torch.testing.assert_close(outputs["body"], model.body(torch.tanh(outputs["norm"])))
    assert outputs["body"].requires_grad


def test_taps_are_neither_in_the_weights_nor_left_behind(model, images):
    plain = set(model.state_dict())
    tapped = TappedModel(model, ["body"])
    assert {name.removeprefix("model.") for name in tapped.state_dict()} == plain
    bare = tapped.remove()
    assert bare is model
    assert not any(module._forward_hooks for module in bare.modules())


def test_nothing_is_kept_between_batches(model, images):
    tapped = TappedModel(model, ["body"])
    tapped(images)
    assert not tapped._features


def test_tapped_features_keep_the_autocast_precision(model, images):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = TappedModel(model, ["body"])(images)
    assert outputs["body"].dtype == torch.bfloat16


def test_taps_work_in_a_compiled_model(model, images):
    tapped = TappedModel(model, ["body"]).eval()
    expected = tapped(images)
    tapped.compile(backend="eager", fullgraph=True)
    for batch in (images, images[:2]):
        found = tapped(batch)
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found["body"], expected["body"][: len(batch)])


@pytest.mark.parametrize("path", ["bodi", "", "head.weight"])
def test_an_unknown_path_lists_the_near_ones(model, path):
    with pytest.raises(ValueError, match=r"no module '.*'; near: .*(body|head)"):
        TappedModel(model, [path])


def test_names_that_are_half_alike_are_near(model):
    with pytest.raises(ValueError, match=r"^no module 'bolt'; near: body$"):
        TappedModel(model, ["bolt"])


def test_six_near_names_are_enough():
    model = nn.ModuleDict({f"layer{number}": nn.Identity() for number in range(9)})
    with pytest.raises(ValueError, match=r"^no module 'layer'; near: layer\d(, layer\d){5}$"):
        TappedModel(model, ["layer"])


def test_a_frozen_model_stays_in_eval_mode_inside_others(model):
    frozen = Frozen(TappedModel(model))
    holder = nn.Sequential(frozen)
    holder.train()
    frozen.train(mode=True)
    assert not any(module.training for module in frozen.modules())


def test_a_frozen_models_features_can_be_saved_for_backward(model, images):
    feature = Frozen(TappedModel(model, ["body"]))(images)["body"]
    learner = torch.ones_like(feature, requires_grad=True)
    nn.functional.mse_loss(learner, feature).backward()
    assert learner.grad.abs().sum() > 0


def test_a_moving_average_blends_weights_and_statistics(model):
    average = MovingAverage(model, decay=0.9)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    model.norm.running_mean.add_(1)
    average.update(model, update=0)
    for name, value in average.model.state_dict().items():
        if value.is_floating_point() and name != "norm.running_var":
            torch.testing.assert_close(value, start[name] + 0.1)


def test_a_tap_may_read_what_a_module_is_given():
    model = create_model("torchvision/resnet18", num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs = TappedModel(model, ["fc:input", "avgpool", "layer4.1.relu:input", "layer4.1"])(images)
    torch.testing.assert_close(outputs["fc:input"], outputs["avgpool"].flatten(1))
    torch.testing.assert_close(outputs["layer4.1.relu:input"].relu(), outputs["layer4.1"])
    assert (outputs["layer4.1.relu:input"] < 0).any()


def test_an_output_that_the_model_changes_in_place_is_copied():
    """A block of ResNet adds its shortcut to the last BatchNorm's output in place."""
    model = create_model("torchvision/resnet18", num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inside = TappedModel(model, ["layer1.0.conv2", "layer1.0.bn2", "layer1.0"])
    expected = inside(images)["layer1.0"]
    probed = inside.probe(images)
    torch.testing.assert_close(probed["layer1.0.bn2"], model.layer1[0].bn2(probed["layer1.0.conv2"]))
    for outputs in (probed, inside(images)):
        torch.testing.assert_close(outputs["layer1.0"], expected)
        assert not torch.equal(outputs["layer1.0.bn2"], expected)
    outputs["layer1.0.bn2"].sum().backward()
    assert model.layer1[0].bn2.weight.grad.abs().sum() > 0


def test_the_columns_of_the_classes_are_no_part_of_the_weights(model, images):
    plain = model.eval()(images)
    tapped = TappedModel(model, ["logits", "body"], columns=[2, 0, 1, 3]).eval()
    assert "columns" not in tapped.state_dict()
    outputs = tapped(images)
    assert outputs.keys() == {"logits", "body"}
    torch.testing.assert_close(outputs["logits"], plain[:, [2, 0, 1, 3]])
    assert tapped.remove()(images).equal(plain)


def test_what_a_failed_forward_kept_is_forgotten(model, images):
    tapped = TappedModel(model, ["stem", "body"])
    head, model.head = model.head, None
    with pytest.raises(TypeError):
        tapped(images)
    body, model.body = model.body, nn.Identity()
    model.head = head
    assert tapped(images).keys() == {"logits", "stem"}
    model.body = body


class Twofold(nn.Module):
    """Its first layer returns a tuple; the second changes its input in place."""

    forwards = 0

    def __init__(self):
        super().__init__()
        self.pair = Pair()
        self.plain = nn.Flatten()

    def forward(self, images):
        self.forwards += 1
        return self.plain(self.pair(images)[0])


class Pair(nn.Module):
    def forward(self, images):
        return images * 2, images


def test_a_probe_runs_once_where_nothing_is_changed_in_place(images):
    model = Twofold()
    tapped = TappedModel(model, ["pair", "plain"])
    assert isinstance(tapped.probe(images)["pair"], tuple), "told where outputs are checked"
    assert model.forwards == 1


def test_only_what_is_changed_in_place_is_copied():
    model = create_model("torchvision/resnet18", num_classes=4).eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tapped = TappedModel(model, ["layer1.0.bn2", "layer1.0.conv1"])
    tapped.probe(images)
    seen = {}
    model.layer1[0].conv1.register_forward_hook(lambda module, inputs, output: seen.update(output=output))
    assert tapped(images)["layer1.0.conv1"] is seen["output"]
