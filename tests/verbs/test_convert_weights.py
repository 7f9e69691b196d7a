"""`python -m mutual.convert weights`: PaddleClas' weights become a file with a card that recipes take, and come back bit for bit."""

import pickle
import re

import numpy as np
import pytest
import torch
from paddle_files import GOLDEN, formula_state, our_name, paddle_shapes, write_pdparams
from safetensors.torch import load_file, save_file
from support import tiny_document

from mutual.convert import main
from mutual.engine import fit
from mutual.group import DataSpec, create_peer_model
from mutual.models import ModelCard, ModelInput, create_model, model_bytes, read_card, read_model, statistics_for
from mutual.recipe import RecipeError, parse_recipe


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def golden(tmp_path):
    arrays = np.load(GOLDEN / "pplcnet_x0_25_c10.npz")
    write_pdparams(tmp_path / "theirs.pdparams", {key[6:]: arrays[key] for key in arrays.files if key.startswith("state.")}, protocol=2)
    return arrays


def converted(capsys, *words, code=0):
    """The lines on stdout, or of what is wrong."""
    assert main(["weights", *map(str, words)]) == code
    out, err = capsys.readouterr()
    lines = (err if code else out).splitlines()
    assert len(lines) == 1
    return lines[0]


def stored(path):
    return pickle.loads(path.read_bytes())


@pytest.mark.parametrize("name", ["pplcnet_x0_25", "PPLCNet_x0_25"])
def test_logits_and_features_are_the_references(golden, tmp_path, capsys, name):
    line = converted(capsys, "theirs.pdparams", "ours.safetensors", "--model", name)
    assert line.startswith(f"ours.safetensors: {name} from theirs.pdparams, ")
    model, card = read_model("ours.safetensors")
    assert (card.model, card.num_classes, card.class_names[:2], card.in_channels) == ("pplcnet_x0_25", 10, ("0", "1"), 3)
    assert (card.image_size, card.mean, card.std) == ((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert [step["name"] for step in card.preprocess] == ["resize", "center_crop"]
    features = {}
    for path in ("blocks2", "blocks3", "blocks4", "blocks5", "blocks6"):
        model.get_submodule(path).register_forward_hook(lambda _m, _i, output, path=path: features.update({f"feature.{path}": output}))
    with torch.no_grad():
        features["logits"] = model(torch.from_numpy(golden["input"]))
    for key, found in features.items():
        expected = torch.from_numpy(golden[key])
        assert (found - expected).norm() / expected.norm() < 1e-5, key


def test_there_and_back_is_exact_bit_for_bit(golden, tmp_path, capsys):
    converted(capsys, "theirs.pdparams", "ours.safetensors", "--model", "PPLCNet_x0_25")
    converted(capsys, "ours.safetensors", "back.pdparams", "--model", "PPLCNet_x0_25")
    first, back = stored(tmp_path / "theirs.pdparams"), stored(tmp_path / "back.pdparams")
    del first["StructuredToParameterName@@"]
    assert list(first) == list(back)
    for name, array in first.items():
        assert array.dtype == back[name].dtype
        assert np.array_equal(array, back[name]), name
    converted(capsys, "back.pdparams", "again.safetensors", "--model", "pplcnet_x0_25")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "ours.safetensors").read_bytes()


def test_a_file_without_a_card_and_of_float32_alone_goes_to_paddle_and_back(tmp_path, capsys):
    model = create_model("pplcnet_x0_25", num_classes=6, in_channels=1)
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    converted(capsys, "plain.safetensors", "theirs.pdparams", "--model", "pplcnet_x0_25")
    assert {name: array.shape for name, array in stored(tmp_path / "theirs.pdparams").items()} == paddle_shapes(model)
    converted(capsys, "theirs.pdparams", "back.safetensors", "--model", "pplcnet_x0_25")
    back, card = load_file(tmp_path / "back.safetensors"), read_card("back.safetensors")
    assert (card.num_classes, card.in_channels, card.mean) == (6, 1, statistics_for((0.485, 0.456, 0.406), 1))
    for name, tensor in model.state_dict().items():
        one_bit = {"rtol": 2**-23, "atol": 0} if name == "fc.weight" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(back[name].to(tensor.dtype), tensor, **one_bit)


@pytest.mark.parametrize("name", ["ResNet18_vd", "MobileNetV3_small_x0_35"])
def test_a_thousand_classes_are_imagenets(name, tmp_path, capsys):
    model = create_model(our_name(name), num_classes=1000)
    write_pdparams(tmp_path / "theirs.pdparams", formula_state(paddle_shapes(model)))
    converted(capsys, "theirs.pdparams", "ours.safetensors", "--model", name)
    card = read_card("ours.safetensors")
    assert (card.model, card.num_classes, card.class_names[0]) == (our_name(name), 1000, "tench")


DATA = DataSpec(4, ("a", "b", "c", "d"), ModelInput((16, 16), (0.5,), (0.5,), channels=3))


def peer_model(weights):
    peers = {"a": {"model": "pplcnet_x0_25", "weights": weights}, "b": {"model": "support:tiny"}}
    return create_peer_model(parse_recipe(tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}])), "a", DATA)


def test_a_recipe_takes_the_file_with_a_new_classifier(golden, capsys):
    converted(capsys, "theirs.pdparams", "ours.safetensors", "--model", "pplcnet_x0_25")
    for file in ("ours.safetensors", "theirs.pdparams"):
        with pytest.raises(RecipeError, match=r"class.*head: new"):
            peer_model(file)
        peer = peer_model({"file": file, "head": "new"})
        assert torch.equal(peer.model.conv1.conv.weight, torch.from_numpy(golden["state.conv1.conv.weight"]))
    assert peer_model({"file": "ours.safetensors", "head": "new"}).input.mean == (0.485, 0.456, 0.406)


@pytest.mark.filterwarnings("ignore:peer .* begins with a top1")
def test_a_training_begins_with_the_student_of_a_distillation(tmp_path):
    student, teacher = (create_model(f"pplcnet_{scale}", num_classes=10) for scale in ("x0_25", "x0_35"))
    states = {"Student.": paddle_shapes(student), "Teacher.": paddle_shapes(teacher)}
    shapes = {prefix + name: shape for prefix, state in states.items() for name, shape in state.items()}
    write_pdparams(tmp_path / "both.pdparams", formula_state(shapes))
    peers = {
        "a": {"model": "pplcnet_x0_25", "weights": {"file": "both.pdparams", "prefix": "Student."}},
        "b": {"model": "pplcnet_x0_35", "weights": {"file": "both.pdparams", "prefix": "Teacher."}, "frozen": True},
    }
    objectives = [{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["a"], "sources": ["b"]}]
    data = {"dataset": "fake", "image_size": 32, "channels": 3, "num_classes": 10, "num_train": 8, "num_val": 8, "batch_size": 4}
    document = tiny_document(output=str(tmp_path), peers=peers, objectives=objectives, data=data, train={"epochs": 1, "progress": False})
    assert fit(parse_recipe(document)).best_peer == "a"


def test_arguments_and_prefix(tmp_path, capsys):
    model = create_model("pplcnet_x0_25", num_classes=3, class_expand=64, dropout=0.5)
    state = formula_state(paddle_shapes(model))
    write_pdparams(tmp_path / "theirs.pdparams", {f"Student.{name}": array for name, array in state.items()})
    words = ("theirs.pdparams", "ours.safetensors", "--model", "pplcnet_x0_25")
    assert "fc.weight is (3, 64), the model's (" in converted(capsys, *words, code=2)
    args = "{class_expand: 64, dropout: 5e-1}"  # which YAML by itself takes for a text
    converted(capsys, *words, "--args", args, "--prefix", "Student.")
    found, card = read_model("ours.safetensors")
    assert card.args == {"class_expand": 64, "dropout": 0.5}
    assert torch.equal(found.fc.weight, torch.from_numpy(state["fc.weight"]).T * 0.5)
    converted(capsys, "ours.safetensors", "back.pdparams", "--model", "pplcnet_x0_25")
    assert np.array_equal(stored(tmp_path / "back.pdparams")["fc.weight"], state["fc.weight"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "theirs.pdparams there.safetensors --model pplcnet_x0_25",
            "there.safetensors is there already; give another name, or --over",
        ),
        ("theirs.pdparams folder.safetensors --model pplcnet_x0_25 --overwrite", "is there already, and no file; give another name"),
        (
            "no.pdparams x.safetensors --model pplcnet_x0_25",
            "no weights file no.pdparams; the folder holds evil.pdparams, headless.pdparams",
        ),
        ("theirs.pdparams no/x.safetensors --model pplcnet_x0_25", "there is no folder no"),
        ("theirs.pdparams x.pt --model pplcnet_x0_25", "give IN.pdparams OUT.safetensors, or IN.safetensors OUT.pdparams"),
        ("theirs.pdparams x.pdparams --model pplcnet_x0_25", "give IN.pdparams OUT.safetensors, or IN.safetensors OUT.pdparams"),
        ("theirs.pdparams x.safetensors --model ResNet51", "'paddleclas/ResNet51' is no model; did you mean 'paddleclas/ResNet50'"),
        ("theirs.pdparams x.safetensors --model mine:net", "mine:net is code of yours; give a model of the zoo"),
        ("theirs.pdparams x.safetensors --model ResNet18", r"another model: 105 missing \(stem.0.conv.weight, .*144 unexpected \(conv1"),
        ("theirs.pdparams x.safetensors --model pplcnet_x0_25 --num-classes 7", "class counts differ: the file has 10, the model 7"),
        ("theirs.pdparams x.safetensors --model pplcnet_x0_25 --prefix Student", "no tensor's name begins with 'Student'"),
        ("theirs.pdparams x.safetensors --model pplcnet_x0_25 --args {", "--args: line 1, column 2: while parsing.*give a mapping"),
        ("theirs.pdparams x.safetensors --model pplcnet_x0_25 --args 3", "--args: '3' is no mapping; give one"),
        ("theirs.pdparams x.safetensors --model pplcnet_x0_25 --args {a:\t1}", "--args|takes no argument 'a'"),
        ("theirs.pdopt x.safetensors --model pplcnet_x0_25", "give IN.pdparams|the state of an optimizer of Paddle's"),
        ("card.safetensors x.pdparams --model pplcnet_x0_35", "card.safetensors is of small_cnn, as its card says, not of pplcnet_x0_35"),
        ("card.safetensors x.pdparams --model small_cnn", "PaddleClas has no model of the architecture of small_cnn"),
        ("part.pdparams x.safetensors --model pplcnet_x0_25", r"another model: 2 missing \(conv1.bn.running_mean, fc.bias\)"),
        ("wide.pdparams x.safetensors --model pplcnet_x0_25", r"conv1.conv.weight is \(8, 5, 3, 3\), the model's \(8, 3, 3, 3\)"),
        ("headless.pdparams x.safetensors --model pplcnet_x0_25", r"another model: 1 missing \(fc.weight\)"),
        ("evil.pdparams x.safetensors --model pplcnet_x0_25", r"it needs the code of .*eval, which does not run here"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(golden, tmp_path, capsys, words, message):
    state = stored(tmp_path / "theirs.pdparams")
    write_pdparams(tmp_path / "part.pdparams", {name: state[name] for name in state if name not in ("conv1.bn._mean", "fc.bias")})
    write_pdparams(tmp_path / "wide.pdparams", {**state, "conv1.conv.weight": np.zeros((8, 5, 3, 3), np.float32)})
    write_pdparams(tmp_path / "headless.pdparams", {name: state[name] for name in state if name != "fc.weight"})
    (tmp_path / "evil.pdparams").write_bytes(b"\x80\x04cbuiltins\neval\nX\x01\x00\x00\x001\x85R.")
    (tmp_path / "theirs.pdopt").write_bytes(b"\x80\x04}.")
    (tmp_path / "there.safetensors").touch()
    (tmp_path / "folder.safetensors").mkdir()
    card = ModelCard("small_cnn", 4, 1, (14, 14), (0.1,), (0.2,), ("a", "b", "c", "d"))
    (tmp_path / "card.safetensors").write_bytes(model_bytes(create_model("small_cnn", num_classes=4, in_channels=1), card))
    before = sorted(tmp_path.iterdir())
    line = converted(capsys, *words.split(" "), code=2)
    assert re.search(message, line), line
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.safetensors").stat().st_size == 0


def test_overwrite_replaces_a_file(golden, tmp_path, capsys):
    (tmp_path / "ours.safetensors").touch()
    converted(capsys, "theirs.pdparams", "ours.safetensors", "--model", "pplcnet_x0_25", "--overwrite")
    assert read_card("ours.safetensors").num_classes == 10


def test_no_number_of_classes_below_one(golden, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["weights", "theirs.pdparams", "x.safetensors", "--model", "pplcnet_x0_25", "--num-classes", "0"])
    assert caught.value.code == 2
    assert "--num-classes must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("args", ["{num_classes: 3}", "{in_channels: 3}", "{weights: theirs.pdparams}", "{pretrained: true}"])
def test_arguments_that_the_files_say_are_one_line(golden, capsys, args):
    line = converted(capsys, "theirs.pdparams", "ours.safetensors", "--model", "pplcnet_x0_25", "--args", args, code=2)
    assert re.fullmatch(r"mutual: --args: \w+ is none of the architecture's arguments; .*", line)


def test_a_card_does_not_say_where_weights_come_from(golden, tmp_path, capsys):
    model = create_model("pplcnet_x0_25", num_classes=10)
    for args, code in (({"weights": "/etc/passwd"}, 2), ({"pretrained": True}, 2), ({"num_classes": 10, "in_channels": 3}, 0)):
        card = ModelCard("pplcnet_x0_25", 10, 3, (32, 32), (0.5,) * 3, (0.5,) * 3, tuple("abcdefghij"), args=args)
        (tmp_path / "ours.safetensors").write_bytes(model_bytes(model, card))
        line = converted(capsys, "ours.safetensors", "back.pdparams", "--model", "pplcnet_x0_25", code=code)
        assert ("which says where weights come from; a file may not" in line) == (code == 2)
