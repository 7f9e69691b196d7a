"""Checkpoints as timm, torchvision, Lightning, DDP and torch.compile write them: the model's tensors are found, or a line says why not."""

import argparse
import sys
import types
from collections import OrderedDict

import pytest
import timm.utils
import torch
from safetensors.torch import save_file
from torch import nn

from mutual.models import create_model, load_weights
from mutual.models.checkpoints import select_tensors, tensor_groups
from mutual.models.classifier import classifier_paths


def net(seed=1, classes=4, name="small_cnn"):
    torch.manual_seed(seed)
    return create_model(name, num_classes=classes, in_channels=1)


def assert_loaded(path, expected, **options):
    model = net(seed=9)
    loaded = load_weights(model, path, **options)
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    return loaded.notes


def refused(model, path, message, **options):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(model, path, **options)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "half of a file"


def trained(model):
    """An optimizer with a state of the model's shapes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("averaged", [False, True])
def test_timms_checkpoints(tmp_path, averaged):
    """As its train.py writes them; with an average, that is taken, as timm's load_checkpoint does."""
    model = net()
    optimizer = trained(model)
    average = timm.utils.ModelEmaV3(net(seed=2)) if averaged else None
    arguments = argparse.Namespace(model="resnet10t", lr=0.1)
    saver = timm.utils.CheckpointSaver(model, optimizer, args=arguments, model_ema=average, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=71.5)
    notes = assert_loaded(tmp_path / "last.pth.tar", average.module if averaged else model)
    expected = net(seed=9)
    timm.models.load_checkpoint(expected, str(tmp_path / "last.pth.tar"))
    assert_loaded(tmp_path / "last.pth.tar", expected)
    assert [("'state_dict_ema.' is taken, not 'state_dict.'" in note) for note in notes] == [True] * averaged
    assert assert_loaded(tmp_path / "last.pth.tar", model, prefix="state_dict.") == ()


@pytest.mark.parametrize("averaged", [False, True])
def test_the_checkpoints_of_torchvisions_references(tmp_path, averaged):
    model = net()
    optimizer = trained(model)
    average = torch.optim.swa_utils.AveragedModel(net(seed=2))
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1).state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(model="resnet18"),
    }
    if averaged:
        content["model_ema"] = average.state_dict()
    torch.save(content, tmp_path / "checkpoint.pth")
    assert_loaded(tmp_path / "checkpoint.pth", average.module if averaged else model)
    assert_loaded(tmp_path / "checkpoint.pth", model, prefix="model.")


class AttributeDict(dict):
    """Stands for Lightning's class of the same name."""


@pytest.mark.parametrize("attribute", ["model", "net", "backbone"])
@pytest.mark.parametrize("module", [None, "lightning_fabric.utilities.data", "pytorch_lightning.utilities.parsing"])
def test_lightnings_checkpoints(tmp_path, monkeypatch, attribute, module):
    """Beside the model there are a loss with a weight, metrics and the callbacks' scores; hyperparameters are of a class of Lightning's."""
    model = net()
    hyperparameters = {"lr": 0.1, "widths": [1, 2]}
    if module is not None:
        monkeypatch.setattr(AttributeDict, "__module__", module)
        hyperparameters = AttributeDict(hyperparameters)
        for depth in range(module.count(".") + 1):
            stand_in = types.ModuleType(".".join(module.split(".")[: depth + 1]))
            stand_in.AttributeDict = AttributeDict
            monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    content = {
        "epoch": 1,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": OrderedDict(
            {
                "criterion.weight": torch.ones(4),
                **{f"{attribute}.{name}": value for name, value in model.state_dict().items()},
                "accuracy.tp": torch.zeros(4, dtype=torch.int64),
            }
        ),
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(1.4), "best_k_models": {"x.ckpt": torch.ones(())}}
        },
        "optimizer_states": [trained(model).state_dict()],
        "hyper_parameters": hyperparameters,
    }
    content["state_dict"] = OrderedDict((name, value.clone()) for name, value in content["state_dict"].items())
    torch.save(content, tmp_path / "last.ckpt")
    model.load_state_dict(
        {name.removeprefix(f"{attribute}."): v for name, v in content["state_dict"].items() if name.startswith(attribute)}
    )
    assert assert_loaded(tmp_path / "last.ckpt", model) == ()
    for prefix in (f"{attribute}.", attribute, f"state_dict.{attribute}."):
        assert_loaded(tmp_path / "last.ckpt", model, prefix=prefix)
    refused(net(), tmp_path / "last.ckpt", "no tensor's name begins with 'encoder.'; they begin with 'state_dict.", prefix="encoder.")


@pytest.mark.parametrize(
    "wrap", [lambda model: nn.ModuleDict({"module": model}), torch.compile, lambda m: torch.compile(nn.ModuleDict({"module": m}))]
)
@pytest.mark.parametrize("nest", ["", "model", "weights", "student"])
def test_wrapped_models(tmp_path, wrap, nest):
    """The names that DDP and torch.compile give, at the top or in a dict of any name."""
    model = net()
    state = wrap(model).state_dict()
    assert not state.keys() & model.state_dict().keys()
    torch.save({nest: state} if nest else state, tmp_path / "net.pt")
    assert_loaded(tmp_path / "net.pt", model)


@pytest.mark.parametrize("prefix", ["", "vision_model.", "model.visual.trunk."])
def test_hub_safetensors(tmp_path, prefix):
    model = net()
    tensors = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    save_file({**tensors, **({"text.projection": torch.ones(3, 3)} if prefix else {})}, tmp_path / "model.safetensors")
    assert_loaded(tmp_path / "model.safetensors", model)


def test_what_stands_nowhere_else_is_not_left_out_silently(tmp_path):
    """A file with more of the model's own layers is another model."""
    save_file({**net().state_dict(), "blocks9.0.weight": torch.ones(2)}, tmp_path / "net.safetensors")
    refused(net(), tmp_path / "net.safetensors", r"holds another model: 1 unexpected \(blocks9.0.weight\)$")


def test_two_towers_ask_which(tmp_path):
    state = net().state_dict()
    torch.save(
        {"student": {f"backbone.{k}": v for k, v in state.items()}, "teacher": {f"backbone.{k}": v for k, v in state.items()}},
        tmp_path / "d.pt",
    )
    refused(net(), tmp_path / "d.pt", "2 prefixes fit equally; say which in `prefix`: 'student.backbone.', 'teacher.backbone.'")
    assert_loaded(tmp_path / "d.pt", net(), prefix="teacher.backbone.")
    refused(net(), tmp_path / "d.pt", "2 prefixes fit equally", prefix="backbone.")


def test_two_averages_ask_which(tmp_path):
    state = net().state_dict()
    torch.save({"model": state, "model_ema": state, "ema": dict(state)}, tmp_path / "net.pt")
    refused(net(), tmp_path / "net.pt", "fit equally; say which in `prefix`: 'model.', 'model_ema.', 'ema.'")


def test_an_average_of_half_the_model_is_not_taken(tmp_path):
    state = net().state_dict()
    torch.save({"state_dict": state, "state_dict_ema": dict(list(state.items())[:4])}, tmp_path / "net.pt")
    assert assert_loaded(tmp_path / "net.pt", net()) == ()


def test_another_architecture_lists_five_of_each_kind(tmp_path):
    torch.save({"state_dict": net(name="pplcnet_x0_25").state_dict()}, tmp_path / "net.pt")
    missing = "blocks1.0.weight, blocks1.1.weight, blocks1.1.bias, blocks1.1.running_mean, blocks1.1.running_var, ..."
    refused(
        net(),
        tmp_path / "net.pt",
        rf"holds another model behind 'state_dict.': \d+ missing \({missing}\); \d+ unexpected \(([\w.]+, ){{5}}...\)$",
    )


def test_a_file_that_is_nested_without_end_is_read_in_no_time():
    content: dict = {}
    content.update({f"k{index}": content for index in range(50)}, weight=torch.ones(1))
    groups = tensor_groups(content)
    assert {tuple(tensors) for tensors in groups.values()} == {("weight",)}
    assert len(groups) < 100_000


def test_two_models_in_one_dict_are_not_chosen_between(tmp_path):
    state = net().state_dict()
    both = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in state.items()}
    torch.save({"state_dict": both}, tmp_path / "d.pt")
    refused(net(), tmp_path / "d.pt", "2 prefixes fit equally; say which in `prefix`: 'state_dict.student.', 'state_dict.teacher.'")


def test_a_prefix_ends_where_a_component_does():
    tensors = {"": {"abc.fc.weight": torch.ones(2), "xfc.weight": torch.zeros(2)}}
    selection = select_tensors(tensors, {"fc.weight": torch.ones(2)})
    assert (selection.prefix, list(selection.tensors)) == ("abc.", ["fc.weight"])


FAMILIES = {
    "small_cnn": ("fc",),
    "pplcnet_x0_25": ("fc",),
    "light_nn": ("classifier.3",),
    "support:tiny": ("head",),
    "torchvision/resnet18": ("fc",),
    "torchvision/squeezenet1_1": ("classifier.1",),
    "torchvision/mobilenet_v3_small": ("classifier.3",),
    "torchvision/googlenet": ("fc",),
    "timm/resnet10t": ("fc",),
    "timm/mobilenetv3_small_050": ("classifier",),
    "timm/deit_tiny_distilled_patch16_224": ("head", "head_dist"),
    "timm/convnext_atto": ("head.fc",),
}


@pytest.mark.parametrize(("name", "paths"), FAMILIES.items())
def test_a_classifier_of_another_width_is_new_and_the_rest_the_files(tmp_path, name, paths):
    channels = 3 if "/" in name else 1
    old = create_model(name, num_classes=4, in_channels=channels)
    assert classifier_paths(old) == paths
    torch.save(old.state_dict(), tmp_path / "old.pt")
    new = create_model(name, num_classes=6, in_channels=channels)
    begun = {key: value.clone() for key, value in new.state_dict().items()}
    refused(new, tmp_path / "old.pt", "the model('s)? 6|the model's \\(6")
    loaded = load_weights(new, tmp_path / "old.pt", head="new")
    (note,) = loaded.notes
    assert f"the classifier ({', '.join(paths)}) is left out: the file's has 4 classes, the model 6; the model's begins with its" in note
    assert {key.rpartition(".")[0] for key in loaded.initial} == set(paths)
    for key, value in new.state_dict().items():
        assert torch.equal(value, begun[key] if key in loaded.initial else old.state_dict()[key]), key


def test_every_branch_of_a_model_has_a_classifier(tmp_path):
    torch.save(net(name="one").state_dict(), tmp_path / "old.pt")
    loaded = load_weights(net(name="one", classes=6), tmp_path / "old.pt", head="new")
    assert {key.rpartition(".")[0] for key in loaded.initial} == {f"branches.{index}.3" for index in range(3)}


def test_a_file_without_a_classifier_or_with_one_of_another_form(tmp_path):
    state = net().state_dict()
    body = {key: value for key, value in state.items() if not key.startswith("fc.")}
    for number, head in enumerate(
        ({}, {"fc.0.weight": torch.ones(8, 64), "fc.2.weight": torch.ones(4, 8)}, {"fc.weight": torch.ones(4, 7)})
    ):
        torch.save({**body, **head}, tmp_path / f"{number}.pt")
        refused(net(), tmp_path / f"{number}.pt", "`weights: {file: FILE, head: new}` begins with a new classifier$")
        loaded = load_weights(model := net(seed=9), tmp_path / f"{number}.pt", head="new")
        assert loaded.initial == ("fc.weight", "fc.bias")
        assert all(torch.equal(model.state_dict()[key], value) for key, value in body.items())


@pytest.mark.parametrize("name", ["timm/resnet10t", "timm/vit_tiny_patch16_224"])
def test_a_model_without_a_classifier_takes_a_file_with_one(tmp_path, name):
    torch.save(create_model(name, num_classes=4).state_dict(), tmp_path / "net.pt")
    headless = create_model(name, num_classes=0)
    refused(headless, tmp_path / "net.pt", r"holds another model: 2 unexpected \((fc|head).weight, (fc|head).bias\)")
    loaded = load_weights(headless, tmp_path / "net.pt", head="new")
    assert loaded.initial == ()
    assert "is left out: the file has another, or none" in loaded.notes[0]
    assert "begins with" not in loaded.notes[0]


def test_a_new_classifier_where_nothing_differs_is_refused(tmp_path):
    torch.save(net().state_dict(), tmp_path / "net.pt")
    refused(net(), tmp_path / "net.pt", "head: new, but the classifier in .*net.pt is of the model's width", head="new")
    loaded = load_weights(net(), tmp_path / "net.pt", head="new", other_classes=True)
    assert loaded.initial == ("fc.weight", "fc.bias")


def test_a_classifier_is_kept_where_it_fits_and_new_where_it_does_not(tmp_path):
    torch.save(net().state_dict(), tmp_path / "net.pt")
    loaded = load_weights(model := net(seed=9), tmp_path / "net.pt", head="auto")
    assert (loaded.notes, loaded.initial) == ((), ())
    assert torch.equal(model.fc.weight, net().fc.weight)
    loaded = load_weights(net(), tmp_path / "net.pt", head="auto", other_classes=True)
    assert loaded.initial == ("fc.weight", "fc.bias")
    loaded = load_weights(model := net(classes=6), tmp_path / "net.pt", head="auto")
    assert loaded.initial == ("fc.weight", "fc.bias")
    assert "the file's has 4 classes, the model 6" in loaded.notes[0]
    torch.save({key: value for key, value in net().state_dict().items() if not key.startswith("fc.")}, tmp_path / "body.pt")
    assert load_weights(net(), tmp_path / "body.pt", head="auto").initial == ("fc.weight", "fc.bias")
    refused(create_model("pplcnet_x0_25", num_classes=4), tmp_path / "net.pt", "holds another model|other shapes", head="auto")


def test_more_than_a_classifier_is_refused(tmp_path):
    torch.save(create_model("small_cnn", num_classes=6, in_channels=3).state_dict(), tmp_path / "net.pt")
    refused(net(), tmp_path / "net.pt", "other shapes: blocks1.0.weight .*; head: new leaves out a classifier alone", head="new")
    torch.save(net(name="pplcnet_x0_25").state_dict(), tmp_path / "other.pt")
    refused(net(), tmp_path / "other.pt", "holds another model", head="new")
