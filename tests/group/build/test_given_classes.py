"""Classes that a recipe names for a frozen peer: lists and files of them, and the zoo's own classifier."""

import pytest
import timm
import torch
import torchvision.models
from support import WORLD, tiny_document

from mutual.group import DataSpec, build_group, create_peer_model
from mutual.models import ModelInput, create_model, model_bytes
from mutual.models.cards import ModelCard
from mutual.recipe import RecipeError, parse_recipe

ANIMALS = ("ant", "bee", "cow")
NET = {"model": "small_cnn", "args": {"widths": [4], "strides": [2]}, "frozen": True}


def created(peer, class_names=ANIMALS):
    recipe = parse_recipe(tiny_document(peers={"s": {"model": "support:tiny"}, "t": peer}, objectives=[{"loss": "cross_entropy"}]))
    data = DataSpec(len(class_names), class_names, ModelInput((8, 8), (0.0,), (1.0,), channels=3))
    return create_peer_model(recipe, "t", data)


def line_of(peer):
    with pytest.raises(RecipeError) as caught:
        created(peer)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.fixture
def weights(tmp_path):
    """A file with a card of four classes."""
    names = ("cow", "ant", "dog", "bee")
    model = create_model("small_cnn", num_classes=4, in_channels=3, **NET["args"])
    card = ModelCard("small_cnn", 4, 3, (8, 8), (0.5,), (0.5,), names, args=NET["args"])
    (tmp_path / "t.safetensors").write_bytes(model_bytes(model, card))
    return str(tmp_path / "t.safetensors")


def assert_classes(peer, columns, known=None):
    assert (peer.classes.columns, peer.classes.known) == (columns, known)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_of_classes_may_begin_with_a_mark_of_its_encoding(weights, tmp_path, encoding):
    """As Notepad writes it; it is no part of the first name."""
    file = tmp_path / "classes.txt"
    file.write_text("cow\r\nant\r\n\r\ndog\r\nbee\r\n", encoding=encoding)
    assert_classes(created({**NET, "weights": weights, "classes": str(file)}), (1, 3, 0))


def test_a_path_that_no_file_has_is_a_line(weights):
    line = line_of({**NET, "weights": weights, "classes": "a\0b"})
    assert "peers.t.classes: a" in line
    assert "cannot be read (embedded null byte); give a text file with a class a line" in line


def test_there_is_a_name_for_each_output(weights):
    line = line_of({**NET, "weights": weights, "classes": ["cow", "ant", "bee"]})
    assert "peers.t.classes: 3 names for the model's 4 outputs; give one for each" in line


def test_a_factory_that_has_other_outputs_than_names_is_a_line():
    """It takes no heed of num_classes; the names beyond, or those that are not given, would be of other classes."""
    for classes, line in (
        (["cow", "ant", "bee", "x", "y"], "peers.t.classes: 5 names for the model's 9 outputs; give one for each"),
        ([0, 9, 2], "peers.t.classes: output 9 is not there: the model has"),
    ):
        peers = {"s": {"model": "support:tiny"}, "t": {"model": "support:stubborn", "frozen": True, "classes": classes}}
        recipe = parse_recipe(tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["s"]}]))
        with pytest.raises(RecipeError, match=line):
            build_group(recipe, WORLD, num_classes=3, in_channels=1, image_size=(8, 8), class_names=ANIMALS)


@pytest.fixture
def pretrained(monkeypatch, tmp_path):
    """Frozen peers with the zoo's own weights, without a network."""
    state = torchvision.models.resnet18(num_classes=1000).state_dict()
    monkeypatch.setattr("mutual.models.zoo._torchvision_weights", lambda name: state)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "timm.pth")
    args = {"pretrained_cfg_overlay": {"file": str(tmp_path / "timm.pth")}}
    common = {"weights": "pretrained", "frozen": True}
    return {"torchvision": {"model": "torchvision/resnet18", **common}, "timm": {"model": "timm/test_resnet", "args": args, **common}}


@pytest.mark.parametrize("family", ["torchvision", "timm"])
def test_a_pretrained_teacher_keeps_its_own_classifier(pretrained, family):
    """Of another width it would be one that nothing has trained."""
    peer = pretrained[family]
    assert "peers.t.classes: 3 names for the model's 1000 outputs" in line_of({**peer, "classes": list(ANIMALS)})
    line = line_of({**peer, "args": {**peer.get("args", {}), "num_classes": 3}})
    assert "peers.t.args.num_classes: the pretrained classifier has 1000 outputs, and a frozen peer would teach with one of 3" in line
    assert_classes(created({**peer, "classes": [7, 999, None]}), (7, 999), (0, 1))
    names = [f"n{index}" for index in range(997)] + list(ANIMALS)
    assert_classes(created({**peer, "classes": names}), (997, 998, 999))
