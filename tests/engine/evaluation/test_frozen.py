"""`evaluate --peer` of a frozen peer, whose weights a run does not keep: as it taught there, or a line."""

import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from support import tiny_document

import mutual
from mutual import evaluate
from mutual.models import create_model, model_bytes, read_card
from mutual.recipe import parse_recipe

OBJECTIVES = [{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"]}]


def train(output, teacher, **changes):
    peers = {"s": {"model": "support:tiny"}, "t": {"frozen": True, **teacher}}
    changes = {"train": {"epochs": 1, "progress": False}, **changes}
    return mutual.fit(parse_recipe(tiny_document(output=str(output), peers=peers, objectives=OBJECTIVES, **changes)))


def scored(folder, capsys, *arguments):
    """By peer what `evaluate` prints, or its line."""
    capsys.readouterr()
    code = evaluate.main([str(folder), "--json", *arguments])
    out, err = capsys.readouterr()
    assert code in (0, 2), err
    return json.loads(out) if code == 0 else err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was taught by a net of the zoo, from a file of plain weights."""
    folder = tmp_path_factory.mktemp("run")
    model = create_model("small_cnn", num_classes=4, in_channels=1)
    (folder / "t.safetensors").write_bytes(safetensors.torch.save(model.state_dict()))
    return train(folder, {"model": "small_cnn", "weights": str(folder / "t.safetensors")})


def test_a_frozen_peer_is_scored_as_it_was_before_the_first_update(run, capsys):
    before = run.history[0]["eval"]
    found = scored(run.folder, capsys, "--peer", "t")
    assert found.keys() == before.keys() == {"t"}
    assert found["t"] == pytest.approx(before["t"])


def test_all_peers_are_those_that_were_trained(run, capsys):
    assert scored(run.folder, capsys, "--factory", "support:tiny").keys() == {"s"}


def test_a_file_that_is_gone_is_a_line_and_another_one_may_be_given(run, tmp_path, capsys):
    folder, weights = shutil.copytree(run.folder, tmp_path / "run"), run.folder.parent / "t.safetensors"
    moved = weights.rename(tmp_path / "moved.safetensors")
    line = scored(folder, capsys, "--peer", "t")
    assert f"peers.t.weights: no weights file {weights}" in line
    assert line.count("\n") == 1
    found = scored(folder, capsys, "--peer", "t", f"peers.t.weights={moved}")
    shutil.copy(moved, weights)
    assert found["t"] == pytest.approx(run.history[0]["eval"]["t"])


def test_a_file_of_another_model_is_a_line(run, tmp_path, capsys):
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.torch.save({"weight": torch.ones(2)}))
    line = scored(run.folder, capsys, "--peer", "t", f"peers.t.weights={path}")
    assert "peers.t.weights" in line
    assert "holds another model" in line
    assert line.count("\n") == 1


def test_its_outputs_are_read_by_the_names_of_its_classes(run, tmp_path, capsys):
    """The file has a card, and the data's classes in another order."""
    order = [2, 0, 3, 1]
    state = safetensors.torch.load_file(run.folder.parent / "t.safetensors")
    model = create_model("small_cnn", num_classes=4, in_channels=1)
    model.load_state_dict({name: tensor[order] if tensor.shape[:1] == (4,) else tensor for name, tensor in state.items()})
    card = read_card(run.folder / "best" / "s.safetensors")
    card = replace(card, model="small_cnn", args={}, class_names=tuple(card.class_names[index] for index in order))
    path = tmp_path / "reordered.safetensors"
    path.write_bytes(model_bytes(model, card))
    assert scored(run.folder, capsys, "--peer", "t", f"peers.t.weights={path}")["t"] == pytest.approx(run.history[0]["eval"]["t"])


def test_weights_that_no_file_holds_are_a_line(tmp_path, capsys):
    """Of a net of the zoo that began at random, or that its arguments fetched."""
    folder = train(tmp_path, {"model": "small_cnn"}).folder
    line = scored(folder, capsys, "--peer", "t")
    assert "peers.t.weights: the run keeps no weights of a frozen peer, and its recipe names no file; give peers.t.weights=FILE" in line
    assert line.count("\n") == 1


def test_a_users_model_is_run_at_the_users_word_alone(tmp_path, capsys):
    """The run's recipe is a file, and no file chooses code."""
    result = train(tmp_path, {"model": "support:double"})
    line = scored(result.folder, capsys, "--peer", "t")
    assert "peer 't' is the model 'support:double'; to run that code add --factory support:double" in line
    assert line.count("\n") == 1
    found = scored(result.folder, capsys, "--peer", "t", "--factory", "support:double")
    assert found["t"] == pytest.approx(result.history[0]["eval"]["t"])


def test_missing_weights_are_told_before_torch_is_imported(run, monkeypatch, capsys):
    monkeypatch.setattr("mutual.engine.evaluation.inference.read_frozen", lambda *_: pytest.fail("it was begun"))
    assert "no weights file nowhere.safetensors" in scored(run.folder, capsys, "--peer", "t", "peers.t.weights=nowhere.safetensors")
