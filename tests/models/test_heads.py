"""Models without a classifier: what they give is what the classifier is given, and files of the whole model load into them."""

from functools import partial

import pytest
import torch
from support import TinyNet
from torch import nn
from torchvision.models import vision_transformer

from mutual.models import create_model, load_weights
from mutual.models.zoo import MODELS, classifier_tensors

OURS = {
    "small_cnn": ("fc", 64, {}),
    "pplcnet_x0_25": ("fc", 1280, {}),
    "paddleclas/ResNet18_vd": ("fc", 512, {}),
    "paddleclas/MobileNetV3_small_x0_35": ("fc", 1280, {}),
    "deep_nn": ("classifier.3", 512, {}),
    "light_nn": ("classifier.3", 256, {}),
    "keras_cnn": ("6", 512 * 49, {}),
    "tensorflow_cnn": ("11", 64, {}),
    "mlp": ("4", 512, {"image_size": (32, 32)}),
}
ZOO = {
    "torchvision/resnet18": ("fc", 512, 64),
    "torchvision/alexnet": ("classifier.6", 4096, 64),
    "torchvision/densenet121": ("classifier", 1024, 64),
    "torchvision/mobilenet_v3_small": ("classifier.3", 1024, 64),
    "torchvision/squeezenet1_1": ("classifier.1", 512, 64),
    "torchvision/googlenet": ("fc", 1024, 64),
    "torchvision/convnext_tiny": ("classifier.2", 768, 64),
    "torchvision/vit_b_16": ("heads.head", 768, 224),
    "torchvision/swin_t": ("head", 768, 64),
    "timm/resnet10t": ("fc", 512, 64),
    "timm/mobilenetv3_small_050": ("classifier", 1024, 64),
    "timm/vit_tiny_patch16_224": ("head", 192, 224),
    "timm/convnext_atto": ("head.fc", 320, 64),
    "timm/deit_tiny_distilled_patch16_224": ("head", 192, 224),
}


def classifier_input(model, path, images):
    """What the classifier at `path` of a model is given."""
    seen = []
    model.get_submodule(path).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model.eval()(images)
    return seen[0]


def compared(name, path, width, images, tmp_path, **args):
    """A model of seven classes and the same without a head, with the weights of a file of the first; what they give agrees."""
    whole = create_model(name, num_classes=7, in_channels=images.shape[1], **args)
    torch.save(whole.state_dict(), tmp_path / "whole.pt")
    model = create_model(name, num_classes=0, in_channels=images.shape[1], weights=str(tmp_path / "whole.pt"), **args).eval()
    with torch.no_grad():
        found = model(images)
        assert found.shape == (len(images), width)
        return model, found, classifier_input(whole, path, images)


@pytest.mark.parametrize("name", OURS)
def test_ours_give_what_their_classifier_is_given(name, tmp_path):
    path, width, args = OURS[name]
    side = 28 if name in ("keras_cnn", "tensorflow_cnn") else 32
    model, found, expected = compared(name, path, width, torch.rand(2, 3, side, side), tmp_path, **args)
    assert torch.equal(found, expected.flatten(1))
    assert isinstance(model.get_submodule(path), nn.Identity), "its path stays, to be tapped"


def shallow(build, **arguments):
    """A vision transformer of torchvision, whose smallest has 86 million parameters, with one layer of its twelve."""
    return build(**{**arguments, "num_layers": 1})


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_zoos_give_what_their_classifier_is_given(name, tmp_path, monkeypatch):
    """But squeezenet, whose classifier is a convolution before a ReLU and the mean, and distilled nets with two classifiers."""
    path, width, size = ZOO[name]
    monkeypatch.setattr(vision_transformer, "_vision_transformer", partial(shallow, vision_transformer._vision_transformer))
    torch.manual_seed(0)
    _, found, expected = compared(name, path, width, torch.rand(2, 3, size, size), tmp_path)
    if "squeezenet" in name:
        expected = expected.relu().mean(dim=(2, 3))
    if "distilled" not in name:
        torch.testing.assert_close(found, expected)


def test_every_model_of_ours_has_one_classifier_or_is_refused():
    assert {*OURS, *(name for name in MODELS if name.startswith(("pplcnet", "paddleclas/"))), "one"} == set(MODELS)


def test_several_branches_have_no_embedding_of_their_own():
    with pytest.raises(ValueError, match="one has 3 classifiers of its own; head: none needs exactly one"):
        create_model("one", num_classes=0)


def test_a_users_factory_is_asked_for_no_classes_if_it_names_them():
    """One that takes any keyword, and passes it on, may know none."""
    with pytest.warns(UserWarning, match="Initializing zero-element tensors"):
        net = create_model("support:tiny", num_classes=0, in_channels=1)
    assert net.head.out_features == 0
    assert create_model("support:embedding", num_classes=0, in_channels=1)(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"support:embedding cannot be built with num_classes=3.*unexpected keyword argument"):
        create_model("support:embedding", num_classes=3, in_channels=1)


def test_what_is_no_classifiers_must_be_the_models(tmp_path):
    """Only the classifier's tensors are left out: others say that the file is another model's."""
    state = create_model("small_cnn", num_classes=3, in_channels=1).state_dict()
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "extra.pt")
    with pytest.raises(ValueError, match=r"holds another model: 1 unexpected \(extra.weight\)"):
        create_model("small_cnn", num_classes=0, in_channels=1, weights=str(tmp_path / "extra.pt"))
    del state["blocks1.0.weight"]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(ValueError, match=r"holds another model: 1 missing \(blocks1.0.weight\)"):
        create_model("small_cnn", num_classes=0, in_channels=1, weights=str(tmp_path / "less.pt"))


def test_a_file_without_a_classifier_loads_and_nothing_is_asked(tmp_path):
    model = create_model("small_cnn", num_classes=0, in_channels=1)
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "bare.pt")
    load_weights(model, tmp_path / "bare.pt", dropped=lambda: pytest.fail("there is nothing to leave out"))


def test_a_model_with_its_classifier_leaves_nothing_out(tmp_path):
    model = create_model("small_cnn", num_classes=3, in_channels=1)
    assert classifier_tensors("small_cnn", model, 3, in_channels=1) == frozenset()
    bare = create_model("small_cnn", num_classes=0, in_channels=1)
    assert classifier_tensors("small_cnn", bare, 0, in_channels=1) == {"fc.weight", "fc.bias"}
    net = create_model("support:embedding", num_classes=0, in_channels=1)
    assert classifier_tensors("support:embedding", net, 0, in_channels=1) == frozenset()


def test_in_a_users_net_of_no_classes_the_classifier_is_named_by_that_of_two():
    net = TinyNet(1, 1)
    net.head = nn.Identity()
    assert classifier_tensors("support:tiny", net, 0, in_channels=1) == {"head.weight", "head.bias"}
