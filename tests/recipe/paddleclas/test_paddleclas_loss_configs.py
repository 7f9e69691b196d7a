"""Whole configs of each method: their objectives field by field, the gradients of their models, and a training of two updates each."""

import re

import plain_paddleclas
import pytest
import torch
from data_configs import CONFIGS, write_images
from support import WORLD

import mutual
from mutual.data import mixed
from mutual.engine.runtime import Environment
from mutual.engine.training import build_training
from mutual.group import MicroBatchContext
from mutual.recipe import convert_recipe, load_recipe
from mutual.recipe.syntax import parse_yaml

TAUGHT = {"learners": ["Student"], "sources": ["Teacher"]}
BOTH = {"learners": ["Student", "Teacher"]}


def truth(*learners, weight=1.0, **arguments):
    return {"loss": "cross_entropy", "weight": weight, "learners": list(learners), **arguments}


def taught(loss, *, weight=1.0, **arguments):
    return {"loss": loss, "weight": weight, **TAUGHT, **arguments}


def layers(number):
    return [f"blocks.{index}" for index in range(number)]


LAST = {"Student": "blocks.7", "Teacher": "blocks.15"}
OBJECTIVES = {
    "afd": [
        truth("Student"),
        taught("kd", weight=0.9, temperature=4.0),
        taught("afd", weight=50.0, at={"Student": layers(8), "Teacher": layers(16)}, qk_dim=128),
    ],
    "attributes": [
        taught("dml", form="softmax"),
        {"loss": "bce", "weight": 26.0, "learners": ["Student"], "class_fraction": "data"},
    ],
    "ce": [taught("soft_label", temperature=1.0), truth("Student", weight=0.1, label_smoothing=0.1)],
    "dist": [truth("Student"), taught("dist", weight=2.0, beta=1.0, gamma=1.0)],
    "distance": [truth("Student"), taught("l1", weight=0.5, at="avg_pool"), taught("l2", weight=0.1)],
    "dkd": [truth("Student"), taught("dkd", temperature=1.0, alpha=1.0, beta=1.0)],
    "dml": [truth("Student", "Teacher"), {"loss": "dml", "weight": 1.0, **BOTH, "form": "js"}],
    "dml3": [
        truth("A", "B", "C", label_smoothing=0.1),
        {"loss": "dml", "weight": 0.5, "learners": ["A", "B", "C"], "reduce": "sum", "form": "js"},
    ],
    "kl": [truth("Student"), taught("kd", weight=0.9, temperature=4.0)],
    "mgd": [truth("Student"), taught("mgd", at=LAST, alpha_mgd=1.756, lambda_mgd=0.15)],
    "mixce": [truth("model", label_smoothing=0.1)],
    "multilabel": [taught("dml", form="sigmoid_present"), {"loss": "bce", "weight": 26.0, "learners": ["Student"]}],
    "pefd": [truth("Student"), taught("pefd", weight=25.0, at="avg_pool", num_projectors=3)],
    "plain_ce": [truth("model", label_smoothing=0.1)],
    "plain_multilabel": [{"loss": "bce", "weight": 1.0, "learners": ["model"]}],
    "rkd": [
        taught("dml", form="js"),
        *(taught(loss, weight=0.5, at={"Student": "blocks.2", "Teacher": "blocks.5"}) for loss in ("rkd_angle", "rkd_distance")),
    ],
    "skd": [taught("skd", temperature=1.0, multiplier=2.0, alpha=0.9)],
    "softtarget": [truth("model")],
    "ssld": [taught("dml", form="js")],
    "udml": [
        truth("Student", "Teacher"),
        {"loss": "dml", "weight": 1.0, **BOTH, "form": "js"},
        {"loss": "l2", "weight": 1.0, **BOTH, "at": "blocks5"},
        {"loss": "smooth_l1", "weight": 0.5, **BOTH, "at": "blocks4", "beta": 1.0},
        {"loss": "l2", "weight": 0.25, **BOTH, "at": "blocks3"},
    ],
    "wsl": [truth("Student"), taught("wsl", weight=2.5, temperature=2.0)],
}


def test_each_config_of_a_loss_is_here():
    assert {f"loss_{name}" for name in OBJECTIVES} == {path.stem for path in CONFIGS.glob("loss_*.yaml")}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_objectives_are_those_that_the_losses_say(name):
    conversion = convert_recipe(CONFIGS / f"loss_{name}.yaml")
    assert conversion.document["objectives"] == OBJECTIVES[name]
    assert [line for line in conversion.left_out if line.startswith("Loss.")] == []


def shrunk(name, folder):
    """The config with small images, which lie in its folders, and few classes."""
    text = (CONFIGS / f"loss_{name}.yaml").read_text()
    for path in sorted(set(re.findall(r"cls_label_path: (\S+)", text))):
        flags = [",".join(str(int(column % 5 == index % 5)) for column in range(33 if "33" in text else 26)) for index in range(8)]
        labels, between = (flags, "\t") if "MultiLabelDataset" in text else ([index % 4 for index in range(8)], " ")
        lines = write_images((folder / path).parent, labels, between=between)
        (folder / path).write_text(lines)
    sizes = {"224": "32", "256": "36", "192": "32", "208": "36", "128": "32", "1000": "10"}
    config = folder / f"{name}.yaml"
    config.write_text(re.sub(r"(?<=[\[ ])(224|256|192|208|128|1000)(?=[\],\n])", lambda match: sizes[match[0]], text))
    return config


def loaded(name, folder):
    overrides = ["Global.epochs=1", "DataLoader.Train.sampler.batch_size=4", "DataLoader.Train.loader.num_workers=0"]
    return load_recipe(
        shrunk(name, folder),
        [*overrides, *(f"train.{given}" for given in ("precision=no", "accumulate=1", "progress=false", "pictures=false"))],
    )


def forwarded(recipe):
    """A group's losses on a batch, its outputs by the names that their losses give them, the labels, and the trained weights."""
    training = build_training(recipe, Environment(None, WORLD, "no"))
    group, data = training.group, training.data
    group.train()
    outputs = {}
    for name, peer in group.peers.items():
        if peer.frozen:  # with its initial weights it is so sure that the logarithms of its probabilities are infinite
            peer.model.register_forward_hook(lambda module, inputs, logits: logits / logits.std())
        peer.tapped.register_forward_hook(lambda module, inputs, given, name=name: outputs.update({name: given}))
    window = next(data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1))
    images, labels = mixed(window.batches[0], num_classes=data.info.num_classes)
    given = group.forward(images, labels, MicroBatchContext(num_valid=len(labels), seed=0, global_batch_size=len(labels)))
    data.close()
    weights = [weight for peer in group.trainable for weight in peer.model.parameters()]
    adapters = [each.loss.adapter for each in group.local_losses.values() if each.loss.adapter is not None]
    fraction = torch.tensor(data.class_counts) / data.info.num_train
    return sum(given.losses.values()), named_as_theirs(outputs), labels, weights, adapters, fraction


def named_as_theirs(outputs):
    return {
        name: {"output": given["logits"]} | {re.sub(r"\.(\d+)", r"[\1]", path): value for path, value in given.items()}
        for name, given in outputs.items()
    }


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"afd", "mgd"}))  # written out in test_golden_losses.py; mgd draws at random
def test_each_weight_has_the_gradient_of_their_sum(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours, outputs, labels, weights, adapters, fraction = forwarded(loaded(name, tmp_path))
    losses = parse_yaml((CONFIGS / f"loss_{name}.yaml").read_text())["Loss"]["Train"]
    for entry in losses:
        for arguments in entry.values():
            arguments |= {"weight_ratio": fraction} if "weight_ratio" in arguments else {}
            for key in ("student_channel", "teacher_channel"):
                arguments.pop(key, None)
    theirs = plain_paddleclas.total(losses, outputs, labels, adapters)
    found, expected = (torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True) for value in (ours, theirs))
    squares = [0.0, 0.0]
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            squares[0] += (a - b).double().square().sum()
            squares[1] += b.double().square().sum()
    assert squares[1] > 0
    assert (squares[0] / squares[1]) ** 0.5 < 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_config_trains(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = loaded(name, tmp_path)
    result = mutual.fit(recipe)
    for peer in recipe.trainable:
        assert (result.folder / "last" / f"{peer}.safetensors").is_file()
