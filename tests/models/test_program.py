"""Exported programs as models: the logits of what was exported, and nothing in a file runs but operators of torch."""

import json
import os
import zipfile

import pytest
import torch
from torch import nn

from mutual.engine.exporting import export_model
from mutual.models import ModelCard, create_model, read_card
from mutual.models.program import load_program
from mutual.models.program_archive import _GRAPHS, _check_call, _check_expression, _check_spec

CARD = ModelCard("small_cnn", 4, 1, (14, 14), (0.1,), (0.2,), ("a", "b", "c", "d"))
BATCH = torch.export.Dim("batch")


def images(number, channels=1, size=14):
    return torch.randn(number, channels, size, size, generator=torch.Generator().manual_seed(number))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    return create_model("small_cnn", num_classes=4, in_channels=1).eval()


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory):
    """The program that our export writes."""
    return export_model(net, CARD, tmp_path_factory.mktemp("export"), "net", formats=["torch"])["torch"][0]


def saved(path, module, *, batch=2, dim=BATCH):
    program = torch.export.export(module, (images(batch),), dynamic_shapes=None if dim is None else ({0: dim},))
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize("number", [1, 2, 7])
def test_a_program_gives_the_logits_of_what_was_exported(net, exported, number):
    model = create_model(f"program:{exported}", num_classes=4, in_channels=1)
    torch.testing.assert_close(model(images(number)), net(images(number)))
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("pplcnet_x0_25", "paddleclas/ResNet18_vd", "paddleclas/MobileNetV3_small_x0_35"),
        *("torchvision/resnet18", "timm/vit_tiny_patch16_224", "timm/convnext_atto"),
    ],
)
def test_programs_of_the_zoos(tmp_path, name):
    model = create_model(name, num_classes=3, in_channels=3, **({"img_size": 32} if "vit" in name else {})).eval()
    card = ModelCard(name, 3, 3, (32, 32), (0.1,), (0.2,), ("a", "b", "c"))
    path = export_model(model, card, tmp_path, "net", formats=["torch"])["torch"][0]
    given = images(3, 3, 32)
    program, expected = load_program(path), model(given)
    torch.testing.assert_close(program(given), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(program(given.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)
    program.to(memory_format=torch.channels_last)
    torch.testing.assert_close(program(given), expected, rtol=1e-4, atol=1e-5)


def test_a_program_is_as_it_was_exported_whatever_calls_train(tmp_path):
    """Dropout and BatchNorm stay as they are; the program of a model in training mode is refused by torch."""
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()
    model = load_program(saved(tmp_path / "net.pt2", module))
    expected = module(images(3))
    outer = nn.Sequential(model).train()
    assert not model.training
    torch.testing.assert_close(outer(images(3)), expected)
    assert all(torch.equal(value, model.state_dict()[f"graph.{name}"]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("number", [1, 3, 4, 8, 9])
def test_bounds_of_a_batch_are_met(net, tmp_path, number):
    model = load_program(saved(tmp_path / "net.pt2", net, batch=4, dim=torch.export.Dim("batch", min=3, max=4)))
    torch.testing.assert_close(model(images(number)), net(images(number)))


def test_a_program_moves_with_constants_in_its_graph(tmp_path):
    class Masked(nn.Module):
        def forward(self, batch):
            return batch.mean(dim=(1, 2, 3), keepdim=True).flatten(1) + torch.arange(4, device=batch.device, dtype=batch.dtype)

    model = load_program(saved(tmp_path / "net.pt2", Masked())).to("meta")
    assert model(images(3).to("meta")).device.type == "meta"


def test_the_card_of_our_exports_is_read(exported, net, tmp_path):
    assert read_card(exported) == CARD
    assert read_card(saved(tmp_path / "net.pt2", net)) is None


def refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_program(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_model_for_batches_of_images_is_one_line(net, tmp_path, capfd):
    refused(
        saved(tmp_path / "fixed.pt2", net, dim=None),
        "takes batches of 2 images alone; export it with a dynamic batch, as `mutual.export` does",
    )
    program = torch.export.export(nn.Bilinear(3, 3, 2), (torch.zeros(2, 3), torch.zeros(2, 3)))
    torch.export.save(program, tmp_path / "two.pt2")
    refused(tmp_path / "two.pt2", "takes something else than one batch of float images")
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(2, 3),)), tmp_path / "vectors.pt2")
    refused(tmp_path / "vectors.pt2", "takes something else than one batch of float images")
    refused(tmp_path / "none.pt2", "no weights file")
    (tmp_path / "text.pt2").write_text("text")
    refused(tmp_path / "text.pt2", "is no exported program that can be used here")
    torch.save(net.state_dict(), tmp_path / "weights.pt2")
    refused(tmp_path / "weights.pt2", "it holds no program of torch.export.save")
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(tmp_path / "script.pt2"))
    refused(tmp_path / "script.pt2", "is no exported program that can be used here")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("place", range(1, 10))
def test_a_torn_program_is_one_line(exported, tmp_path, place):
    content = exported.read_bytes()
    (tmp_path / "torn.pt2").write_bytes(content[: len(content) * place // 10])
    refused(tmp_path / "torn.pt2", "is no exported program that can be used here")


class Marked:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def altered(path, target, alter):
    """The archive with the content of each of its files as `alter` gives it; None leaves a file out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = alter(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        root = name.partition("/")[0]
    return target, root


def with_graph(path, target, change):
    def alter(name, content):
        if not _GRAPHS.fullmatch(name):
            return content
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return altered(path, target, alter)[0]


def pickled(value, path):
    torch.save(value, path)
    return path.read_bytes()


def test_nothing_is_unpickled_but_tensors(exported, tmp_path):
    mark = tmp_path / "ran"
    poison = pickled({"x": Marked(str(mark))}, tmp_path / "poison.pt")
    path, _ = altered(exported, tmp_path / "inputs.pt2", lambda name, content: poison if name.endswith(".pt") else content)
    refused(path, "is no exported program that can be used here")
    assert not mark.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    torch.load(tmp_path / "poison.pt", weights_only=False)
    assert mark.exists(), "it would have run"


def test_pickled_weights_and_objects_are_not_unpickled(exported, tmp_path):
    mark = tmp_path / "ran"
    poison = pickled(Marked(str(mark)), tmp_path / "poison.pt")
    with zipfile.ZipFile(exported) as archive:
        configs = [name for name in archive.namelist() if name.endswith("weights_config.json")]
    if not configs:
        pytest.skip("an older form of archive, whose weights are one pickle")

    def alter(name, content):
        if name == configs[0]:
            config = json.loads(content)
            for payload in config["config"].values():
                payload["use_pickle"] = True
            return json.dumps(config).encode()
        return poison if "/data/weights/weight_" in name else content

    refused(altered(exported, tmp_path / "weights.pt2", alter)[0], "is no exported program that can be used here")
    for kind in ("opaque_obj_0", "custom_obj_0"):
        path, root = altered(exported, tmp_path / f"{kind}.pt2", lambda _, content: content)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{root}/data/constants/{kind}", b"cos\nsystem\n")
        refused(path, "it holds pickled objects beside its tensors")
    path, root = altered(exported, tmp_path / "compiled.pt2", lambda _, content: content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{root}/data/aotinductor/model/a.so", b"x")
    refused(path, "it holds a compiled library")
    assert not mark.exists()


def test_graphs_that_are_code_are_refused(exported, tmp_path):
    def node(document):
        return document["graph_module"]["graph"]["nodes"][0]

    changes = {
        "target": (lambda document: node(document).update(target="torch.os.system"), "it calls 'torch.os.system', which is no operator"),
        "name": (lambda document: node(document)["inputs"][0].update(name="x=print()"), "name in it is 'x=print..', which is no name"),
        "expression": (
            lambda document: document["graph_module"]["graph"].update(sym_int_values={"s0": {"as_expr": {"expr_str": "exec('1')"}}}),
            "a size in it is .*, which is no arithmetic",
        ),
        "class": (
            lambda document: document["graph_module"]["module_call_graph"][0]["signature"].update(
                in_spec=json.dumps([1, {"type": "os.Popen", "context": "null", "children_spec": []}])
            ),
            "it takes or gives objects of a class of its own",
        ),
    }
    for name, (change, message) in changes.items():
        refused(with_graph(exported, tmp_path / f"{name}.pt2", change), message)


def test_code_that_checks_inputs_is_left_out(exported, tmp_path, net):
    path = with_graph(exported, tmp_path / "guard.pt2", lambda document: document.update(guards_code=["exit(3)"]))
    torch.testing.assert_close(load_program(path)(images(2)), net(images(2)))


def test_two_files_of_one_name_are_refused(exported, tmp_path):
    path, root = altered(exported, tmp_path / "twice.pt2", lambda _, content: content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{root}/again", b"x")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(f"{root}/again", b"y")
    refused(path, "it holds two files of one name")


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.load_library.__call__",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.mro",
        "torch.ops.higher_order.print",
        "torch.ops.nowhere.add.Tensor",
        "math.__dict__",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "#extension:x",
        "eval",
        "",
    ],
)
def test_calls_of_anything_but_operators_are_refused(target):
    with pytest.raises(ValueError, match="no operator"):
        _check_call(target)


@pytest.mark.parametrize(
    "target", ["torch.ops.aten.conv2d.default", "torch.ops.aten.sym_size.int", "_operator.getitem", "torch.sym_max", "math.ceil"]
)
def test_operators_are_called(target):
    _check_call(target)


@pytest.mark.parametrize(
    "text",
    [
        "exec(x)",
        "print()",
        "s0.__class__",
        "Symbol('x y')",
        'Symbol("s0")',
        "9**9**9",
        "9**99",
        "[1]",
        "lambda: 1",
        "s0\\",
        "__import__",
        "s0;s1",
        "chr(1)",
    ],
)
def test_expressions_are_arithmetic_alone(text):
    with pytest.raises(ValueError, match="no arithmetic"):
        _check_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "s0",
        "2*s0 + 1",
        "Symbol('s31', positive=True, integer=True)",
        "Max(1, (s0 - 3)//2)",
        "s0**2",
        "FloorDiv(u0, 2)",
        "0.5",
        "StrictLessThan(Mul(Integer(-1), Symbol('s0', integer=True)), zuf0)",
    ],
)
def test_sizes_of_every_kind_are_arithmetic(text):
    _check_expression(text)


def test_specs_with_keys_that_are_no_texts_are_refused():
    enum = json.dumps([{"__enum__": True, "fqn": "os.Popen", "name": "x"}])
    with pytest.raises(ValueError, match="class of its own"):
        _check_spec({"type": "builtins.dict", "context": enum, "children_spec": []})
    _check_spec(
        [1, {"type": "builtins.dict", "context": '["logits"]', "children_spec": [{"type": None, "context": None, "children_spec": []}]}]
    )
