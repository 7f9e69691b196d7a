"""Weights that people have, in whole trainings: of an earlier run, with a new classifier, in a trained part, as an exported program."""

import json
import re
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support import WORLD, initial_model, tiny_document

import mutual
from mutual import evaluate, export, train
from mutual.engine import export_model
from mutual.group import build_group
from mutual.models import ModelCard, create_model, model_bytes
from mutual.recipe import RecipeError, load_recipe, parse_recipe

ALONE = [{"loss": "cross_entropy"}]
NET = {"model": "small_cnn", "args": {"widths": [4, 4], "strides": [2, 1]}}
TRAIN = {"epochs": 1, "progress": False}


def document(output, name, peers, **sections):
    whole = tiny_document(peers=peers, train=TRAIN, objectives=ALONE, name=name, output=str(output), optimizer={"name": "sgd", "lr": 0.05})
    whole["data"] |= sections.pop("data", {})
    return {**whole, **sections}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A finished run of two peers."""
    return mutual.fit(parse_recipe(document(tmp_path_factory.mktemp("runs"), "old", {"x": NET, "y": NET}))).folder


def record_of(folder):
    return folder / "best" / "best.json"


def best(folder):
    peer = json.loads((folder / "best" / "best.json").read_text())["peer"]
    return folder / "best" / f"{peer}.safetensors"


def body(tensors):
    return {name: value for name, value in tensors.items() if not name.startswith("fc.")}


@pytest.mark.parametrize("weights", [lambda old: str(old), lambda old: {"file": str(old)}], ids=["path", "section"])
def test_a_peer_begins_with_the_best_peer_of_an_earlier_run(old, tmp_path, weights):
    peers = {"a": {**NET, "weights": weights(old)}}
    recipe = parse_recipe(document(tmp_path, "new", peers))
    start = initial_model(recipe, "a")[0].state_dict()
    assert all(torch.equal(start[name], value) for name, value in load_file(best(old)).items())
    result = mutual.fit(recipe)
    named = load_recipe(result.folder / "recipe.yaml").peers["a"].weights
    assert (named if isinstance(named, str) else named.file) == str(best(old)), "whose weights they were stands in the run's recipe"
    assert isinstance(named, str) == isinstance(peers["a"]["weights"], str)


def test_a_run_of_other_classes_is_finetuned(old, tmp_path):
    """The body is the old run's, bit for bit, where the new classifier alone is trained."""
    peers = {
        "a": {**NET, "weights": {"file": str(old), "head": "new"}},
        "b": {**NET, "weights": {"file": str(old), "head": "new"}, "train_only": ["fc"]},
    }
    recipe = parse_recipe(document(tmp_path, "new", peers, data={"num_classes": 6}))
    note = r"^peers.b.weights: .*: the classifier \(fc\) is left out: the file's has 4 classes, the model 6; the model's begins with its"
    with pytest.warns(UserWarning, match=note):
        folder = mutual.fit(recipe).folder
    before, ends = body(load_file(best(old))), {name: load_file(folder / "last" / f"{name}.safetensors") for name in "ab"}
    assert {end["fc.weight"].shape[0] for end in ends.values()} == {6}
    assert all(torch.equal(value, before[name]) for name, value in body(ends["b"]).items())
    assert not any(torch.equal(value, before[name]) for name, value in body(ends["a"]).items())
    assert not torch.equal(ends["b"]["fc.weight"], initial_model(recipe, "b", num_classes=6)[0].fc.weight)


def test_classes_of_other_names_ask_for_a_new_classifier(tmp_path):
    """As many classes, and others: the card knows."""
    torch.manual_seed(0)
    model = create_model("small_cnn", num_classes=4, in_channels=1)
    card = ModelCard("small_cnn", 4, 1, (8, 8), (0.1,), (0.2,), ("ant", "bee", "cow", "dog"))
    (tmp_path / "old.safetensors").write_bytes(model_bytes(model, card))
    peers = {"a": {"model": "small_cnn", "weights": {"file": str(tmp_path / "old.safetensors"), "head": "new"}}}
    recipe = parse_recipe(document(tmp_path, "new", peers))
    names = ("ant", "bee", "cow", "eel")
    start, notes = initial_model(recipe, "a", class_names=names)
    assert "the classifier (fc) is left out: the file's is of other classes" in notes[0]
    assert not torch.equal(start.fc.weight, model.fc.weight)
    with pytest.raises(RecipeError, match=r"head: new, but the classifier in .* is of the model's width, and of no other classes"):
        initial_model(recipe, "a", class_names=card.class_names)


@pytest.mark.parametrize(
    ("names", "is_kept"), [(("ant", "bee", "cow", "dog"), True), (("ant", "bee", "cow", "eel"), False), (("0", "1"), False)]
)
def test_a_head_that_fits_the_datas_classes_is_kept(tmp_path, names, is_kept):
    torch.manual_seed(0)
    model = create_model("small_cnn", num_classes=4, in_channels=1)
    card = ModelCard("small_cnn", 4, 1, (8, 8), (0.1,), (0.2,), ("ant", "bee", "cow", "dog"))
    (tmp_path / "old.safetensors").write_bytes(model_bytes(model, card))
    peers = {"a": {"model": "small_cnn", "weights": {"file": str(tmp_path / "old.safetensors"), "head": "auto"}}}
    start, notes = initial_model(parse_recipe(document(tmp_path, "new", peers)), "a", class_names=names)
    assert (start.fc.weight.shape == model.fc.weight.shape and torch.equal(start.fc.weight, model.fc.weight)) == is_kept
    assert any("the classifier (fc) is left out" in note for note in notes) == (not is_kept)
    assert torch.equal(next(start.parameters()), next(model.parameters()))


def test_a_resumed_run_keeps_the_file_that_it_began_with(old, tmp_path):
    """The best peer of the earlier run may be another one by then."""
    run = shutil.copytree(old, tmp_path / "old")
    peers = {"a": NET, "t": {**NET, "weights": str(run), "frozen": True}}
    objectives = [*ALONE, {"loss": "kd", "learners": ["a"], "sources": ["t"]}]
    folder = mutual.fit(parse_recipe(document(tmp_path, "new", peers, objectives=objectives))).folder
    began = load_recipe(folder / "recipe.yaml").peers["t"].weights
    record = json.loads((run / "best" / "best.json").read_text())
    record["peer"] = {"x": "y", "y": "x"}[record["peer"]]
    (run / "best" / "best.json").write_text(json.dumps(record))
    mutual.fit(parse_recipe(document(tmp_path, "new", peers, objectives=objectives)), resume=True)
    assert load_recipe(folder / "recipe.yaml").peers["t"].weights == began == str(best(old)).replace(str(old), str(run))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: best(run).write_bytes(best(run).read_bytes()[:-1] + b"x"), "is damaged: its checksum is not the one in best.json"),
        (lambda run: best(run).unlink(), "no weights file .*; the folder holds [xy].safetensors"),
        (lambda run: shutil.rmtree(run / "best"), "has no best weights yet: no epoch has been evaluated"),
        (lambda run: (run / "best" / "best.json").write_text("{"), "best.json is damaged, or of another version"),
        (lambda run: (run / "best" / "best.json").write_text("[" * 100_000), "best.json is damaged, or of another version"),
        (lambda run: record_of(run).write_text('{"peer": "x", "sha256": {"best/x": null}}'), "best.json is damaged, or of another version"),
        (lambda run: record_of(run).write_text('{"peer": "x", "sha256": []}'), "best.json is damaged, or of another version"),
        (lambda run: (record_of(run).unlink(), record_of(run).mkdir()), "best.json is damaged, or of another version"),
        (lambda run: (run / "best" / "best.json").write_text('{"peer": null, "sha256": {}}'), "has no best weights yet"),
        (lambda run: (run / "best" / "best.json").write_text('{"peer": "../x", "sha256": {}}'), "has no best weights yet"),
    ],
)
def test_a_run_without_whole_weights_is_one_line(old, tmp_path, capsys, damage, message):
    run = shutil.copytree(old, tmp_path / "old")
    damage(run)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document(tmp_path, "new", {"a": {**NET, "weights": str(run)}})))
    assert train.main([str(recipe)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(f"peers.a.weights: .*{message}", line)
    with pytest.raises(RecipeError, match=f"^peers.a.weights: .*{message}"):
        initial_model(parse_recipe(document(tmp_path, "new", {"a": {**NET, "weights": str(run)}})), "a")


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ({"head": "new"}, "peers.a.weights: head: new, but the classifier in .* is of the model's width, and of no other classes"),
        (
            {"prefix": "backbone."},
            "peers.a.weights: .*: no tensor's name begins with 'backbone.'; they begin with 'blocks1.', 'blocks2.', 'fc.'",
        ),
    ],
)
def test_a_section_that_does_not_fit_is_one_line(old, tmp_path, peer, message):
    recipe = parse_recipe(document(tmp_path, "new", {"a": {**NET, "weights": {"file": str(old), **peer}}}))
    with pytest.raises(RecipeError, match=f"^{message}") as caught:
        mutual.fit(recipe)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new" / "recipe.yaml").exists()


def test_a_frozen_peer_teaches_with_no_classifier_that_nothing_trained(old, tmp_path):
    peers = {"a": NET, "t": {**NET, "weights": {"file": str(old), "head": "new"}, "frozen": True}}
    with pytest.raises(RecipeError, match=r"^peers.t.weights.head: a frozen peer would teach with a classifier that nothing has trained"):
        mutual.fit(parse_recipe(document(tmp_path, "new", peers, data={"num_classes": 6}, objectives=[{"loss": "kd", "learners": ["a"]}])))


@pytest.fixture(scope="module")
def program(old):
    assert export.main([str(old), "--format", "torch"]) == 0
    return old / "export" / f"{best(old).stem}.pt2"


def taught(tmp_path, name, teacher, **sections):
    peers = {"a": NET, "t": {"frozen": True, **teacher}}
    objectives = [*ALONE, {"loss": "kd", "learners": ["a"], "sources": ["t"]}]
    return document(tmp_path, name, peers, **{"objectives": objectives, **sections})


def test_a_program_teaches_as_the_model_that_was_exported(old, program, tmp_path):
    results = {
        name: mutual.fit(parse_recipe(taught(tmp_path, name, teacher)))
        for name, teacher in {"model": {**NET, "weights": str(old)}, "program": {"model": f"program:{program}"}}.items()
    }
    ends = [load_file(result.folder / "last" / "a.safetensors") for result in results.values()]
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-5, atol=1e-5, msg=name)
    assert results["program"].metrics["t"]["top1"] == results["model"].metrics["t"]["top1"]


def test_a_run_with_a_program_is_resumed_evaluated_and_exported_without_it(program, tmp_path, capsys):
    recipe = parse_recipe(taught(tmp_path, "new", {"model": f"program:{program}"}))
    folder = mutual.fit(recipe).folder
    mutual.fit(recipe, resume=True)
    for command in (evaluate.main, export.main):
        assert command([str(folder), "--peer", "a"]) == 0
    assert evaluate.main([str(folder), "--peer", "t"]) == 0, "from the program that the recipe names"
    capsys.readouterr()
    assert export.main([str(folder), "--peer", "t"]) == 2
    assert "trained no peer 't'" in (line := capsys.readouterr().err)
    assert line.count("\n") == 1


def test_a_programs_outputs_are_read_by_the_names_of_its_classes(tmp_path):
    torch.manual_seed(0)
    model = create_model("small_cnn", num_classes=4, in_channels=1).eval()
    card = ModelCard("small_cnn", 4, 1, (8, 8), (0.1,), (0.2,), ("3", "2", "1", "0"))
    export_model(model, card, tmp_path, "net", formats=["torch"])
    recipe = parse_recipe(taught(tmp_path, "new", {"model": f"program:{tmp_path / 'net.pt2'}"}))
    group = build_group(recipe, WORLD, num_classes=4, in_channels=1, image_size=(8, 8), class_names=("0", "1", "2", "3"))
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(group.forward_peer("t", images, seed=0)["logits"], model(images).flip(1))
    with pytest.raises(RecipeError, match=r"^peers.t.model: .*net.pt2: 0 of its 4 classes are among the data's 5: "):
        build_group(recipe, WORLD, num_classes=5, in_channels=1, image_size=(8, 8), class_names=tuple("vwxyz"))


@pytest.mark.parametrize(
    ("teacher", "sections", "message"),
    [
        ({"frozen": False}, {}, "peers.t.model: an exported program cannot be trained; set frozen: true"),
        ({"weights": "x.pt"}, {}, "peers.t.weights: an exported program holds its weights"),
        ({"args": {"width": 3}}, {}, "peers.t.args: an exported program takes no arguments"),
        (
            {},
            {"objectives": [*ALONE, {"loss": "l2", "at": "blocks1", "learners": ["a"]}]},
            "objectives.1.at: peer 't' .* has no module 'blocks1': an exported program gives its logits alone",
        ),
        ({}, {"data": {"num_classes": 6}}, "peers.t.model: .*class counts differ: the model has 4, the data have 6"),
        ({"input": {"size": 9}}, {}, "peers.t.model: .* cannot take images of 1x9x9: "),
    ],
)
def test_what_a_program_cannot_do_is_one_line(program, tmp_path, teacher, sections, message):
    with pytest.raises(RecipeError, match=f"^{message}") as caught:
        mutual.fit(parse_recipe(taught(tmp_path, "new", {"model": f"program:{program}", **teacher}, **sections)))
    assert "\n" not in str(caught.value)
