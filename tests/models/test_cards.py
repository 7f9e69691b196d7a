"""A weights file chooses no code: only models of the zoo are built from a card, others at the user's word."""

import hashlib
import importlib
import json
import shutil
import sys

import pytest
import safetensors.torch
import torch
from PIL import Image

from mutual import evaluate, export, load_peer, predict
from mutual.engine.storage import BestRecord, RunFolder
from mutual.models import ModelCard, architecture_args, create_model, model_bytes, read_card, read_model
from mutual.recipe import InputError, parse_recipe

CARD = ModelCard("small_cnn", 4, 1, (14, 14), (0.1,), (0.2,), ("a", "b", "c", "d"))
FIELDS = json.loads(CARD.to_json())


def written(path, **changes):
    """A weights file of a small model whose card is changed as an attacker would."""
    net = create_model("small_cnn", num_classes=4, in_channels=1)
    fields = {key: value for key, value in {**FIELDS, **changes}.items() if value is not ...}
    safetensors.torch.save_file({**net.state_dict()}, path, metadata={"mutual": json.dumps(fields)})
    return path


@pytest.fixture
def attack(tmp_path, monkeypatch):
    """A module in the current folder that leaves a mark when it is imported."""
    (tmp_path / "evil_module.py").write_text(
        "from pathlib import Path\nfrom torch import nn\nPath('imported').touch()\n"
        "def net(num_classes, in_channels, **_):\n    Path('ran').touch()\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("evil_module", None)


NAMED = [
    "program:net.pt2",
    "evil_module:net",
    "torch.hub:load",
    "logging:basicConfig",
    "os:system",
    "evil_module.net",
    "timm/hf-hub:a/b",
    "timm/local-dir:.",
]


@pytest.mark.parametrize(
    "model", [*NAMED, "timm/../x", "torchvision/get_model", "torchvision/hub:load", ":", "a:b:c", "", "evil_module:", "x\ny:z"]
)
def test_no_card_runs_code_or_reaches_the_network(attack, monkeypatch, model):
    monkeypatch.setattr("logging.basicConfig", lambda **_: (attack / "ran").touch())
    monkeypatch.setattr("torch.hub.load", lambda *_, **__: (attack / "ran").touch())
    monkeypatch.setattr("socket.socket.connect", lambda *_: (attack / "ran").touch())
    written(attack / "net.safetensors", model=model)
    with pytest.raises(InputError) as caught:
        read_model(attack / "net.safetensors")
    assert "\n" not in str(caught.value)
    assert not (attack / "imported").exists()
    assert not (attack / "ran").exists()


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("timm/resnet10t", {"checkpoint_path": "x.pth"}, "'checkpoint_path'"),
        ("timm/resnet10t", {"pretrained": True}, "'pretrained'"),
        ("timm/resnet10t", {"pretrained_cfg": {"file": "x.pth"}}, "'pretrained_cfg'"),
        ("timm/resnet10t", {"pretrained_cfg_overlay": {"hf_hub_id": "a/b"}}, "'pretrained_cfg_overlay'"),
        ("timm/resnet10t", {"cache_dir": "/tmp"}, "'cache_dir'"),
        ("torchvision/resnet18", {"weights": "DEFAULT"}, "'weights'"),
        ("torchvision/resnet18", {"pretrained": True}, "'pretrained'"),
        ("torchvision/resnet18", {"norm_layer": "os.system"}, "cannot be built"),
        ("small_cnn", {"weights": "pretrained"}, "'weights'"),
        ("small_cnn", {"widths": [10**12]}, "larger than"),
        ("small_cnn", {"nonsense": 1}, "takes no argument 'nonsense'"),
    ],
)
def test_the_arguments_of_a_zoo_model_fetch_nothing(tmp_path, monkeypatch, model, args, message):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("a file was read"))
    written(tmp_path / "net.safetensors", model=model, args=args)
    with pytest.raises(InputError, match=message) as caught:
        read_model(tmp_path / "net.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ...}, "model: Field required"),
        ({"num_classes": 10**12}, "num_classes"),
        ({"num_classes": 10**30}, "num_classes"),
        ({"num_classes": True}, "num_classes"),
        ({"num_classes": 0, "class_names": []}, "num_classes"),
        ({"num_classes": 5}, "4 class_names for 5 classes"),
        ({"in_channels": "1"}, "in_channels"),
        ({"image_size": [14]}, "image_size"),
        ({"image_size": 14}, "image_size"),
        ({"mean": [float("nan")]}, "mean"),
        ({"mean": [0.1, 0.2]}, "2 values of mean for 1 channels"),
        ({"std": None}, "std"),
        ({"class_names": "abcd"}, "class_names"),
        ({"class_names": [1, 2, 3, 4]}, "class_names"),
        ({"args": [1]}, "args"),
        ({"args": {"a": [[[[[[[[[1]]]]]]]]]}}, "too deeply"),
        ({"args": {"a": "x" * 5000}}, "too long"),
        ({"future": 1}, "future"),
    ],
)
def test_a_malformed_card_is_one_line(tmp_path, changes, message):
    written(tmp_path / "net.safetensors", **changes)
    for read in (read_card, read_model):
        with pytest.raises(ValueError, match=f"the card in .*net.safetensors is damaged.*{message}") as caught:
            read(tmp_path / "net.safetensors")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "[" * 100_000, '{"num_classes": ' + "9" * 5000 + "}"])
def test_a_card_that_is_no_mapping_is_one_line(tmp_path, text):
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "net.safetensors", metadata={"mutual": text})
    with pytest.raises(ValueError, match=r"the card in .* is damaged") as caught:
        read_card(tmp_path / "net.safetensors")
    assert "\n" not in str(caught.value)


def test_a_card_keeps_its_values_and_cannot_be_changed():
    card = ModelCard("small_cnn", 2, 1, (3, 4), (0.1,), (0.2,), ("a", "\udcff"), args={"widths": (1, 2), "norm": "none"}, multi_label=True)
    assert ModelCard.from_json(card.to_json()) == card
    assert card.args == {"widths": [1, 2], "norm": "none"}
    with pytest.raises(AttributeError):
        card.model = "other"


def test_a_card_leaves_out_where_a_zoo_models_weights_came_from():
    args = {"drop_rate": 0.1, "pretrained_cfg_overlay": {"file": "x"}, "checkpoint_path": "y"}
    assert architecture_args("timm/resnet10t", args) == {"drop_rate": 0.1}
    assert architecture_args("my_models:net", args) == args


def own_run(folder):
    """A run folder as a training with the user's own model leaves it."""
    peers = {"a": {"model": "evil_module:net"}}
    recipe = parse_recipe({"name": "own", "peers": peers, "objectives": [{"loss": "cross_entropy"}], "data": {"image_size": 2}})
    run = RunFolder(folder)
    run.initialize(recipe, {})
    net = create_model("evil_module:net", num_classes=10, in_channels=1)
    card = ModelCard("evil_module:net", 10, 1, (2, 2), (0.1,), (0.2,), tuple("0123456789"))
    content = model_bytes(net, card)
    run.write_best(BestRecord(peer="a", metric="top1", peers={}, sha256={"best/a": [hashlib.sha256(content).hexdigest()]}))
    (folder / "best" / "a.safetensors").write_bytes(content)
    return folder


def test_the_verbs_run_a_users_model_at_the_users_word_alone(attack, capsys):
    folder = str(own_run(attack / "own"))
    for mark in ("ran", "imported"):
        (attack / mark).unlink()
    Image.new("L", (2, 2)).save(attack / "0.png")
    commands = [(evaluate, [folder]), (predict, [folder, str(attack / "0.png")]), (export, [folder])]
    for command, arguments in commands:
        assert command.main(arguments) == 2
        assert "trained with the model 'evil_module:net'; to run that code add --factory evil_module:net\n" in capsys.readouterr().err
        assert command.main([*arguments, "--factory", "evil_module:other"]) == 2
        assert "given: evil_module:other" in capsys.readouterr().err
    with pytest.raises(InputError, match="add --factory evil_module:net"):
        load_peer(folder)
    assert not (attack / "ran").exists()
    for command, arguments in commands:
        assert command.main([*arguments, "--factory", "evil_module:net"]) == 0, capsys.readouterr().err
    assert load_peer(folder, factory="evil_module:net")(torch.zeros(1, 1, 2, 2)).shape == (1, 10)
    assert (attack / "ran").exists()


def test_a_factory_that_is_gone_is_one_line(attack, capsys, monkeypatch):
    folder = str(own_run(attack / "own"))
    (attack / "evil_module.py").unlink()
    shutil.rmtree(attack / "__pycache__", ignore_errors=True)
    monkeypatch.delitem(sys.modules, "evil_module")
    importlib.invalidate_caches()
    assert evaluate.main([folder, "--factory", "evil_module:net"]) == 2
    error = capsys.readouterr().err
    assert "cannot import 'evil_module'" in error
    assert error.count("\n") == 1
