"""Peers that score less than is expected end a run, and those that know nothing are warned of."""

import json

import pytest
import safetensors.torch
import torch
from support import tiny_document
from taught import DIGITS, KD, document

import mutual
from mutual import train
from mutual.group import Group
from mutual.recipe import RecipeError, parse_recipe


def test_a_peer_that_scores_less_than_is_expected_ends_the_run_before_it_begins(teacher, tmp_path, capsys):
    peers = {"s": {"model": "support:tiny"}, "t": {"model": "small_cnn", "frozen": True, "weights": str(teacher)}}
    peers["t"]["expect"] = {"top1": 0.999, "top5": 0.7}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(document(tmp_path / "runs", peers=peers)))
    assert train.main([str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "peers.t.expect.top1: top1 is 0.9" in line
    assert "on 355 validation images before the first update, less than 0.999; the likely causes are another `input`" in line
    assert not (tmp_path / "runs" / "tiny").exists()
    assert train.main([str(path), "peers.t.expect.top1=0.9", "train.epochs=1"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert train.main([str(path), "--overwrite"]) == 2
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()} == before, "nor what was there before"
    assert train.main([str(path), "--resume", "peers.t.expect.top1=0.8", "train.epochs=1"]) == 0, "what is expected may change"


def test_expecting_a_metric_that_the_data_do_not_have_is_refused(tmp_path):
    peers = {"s": {"model": "support:tiny"}, "t": {"model": "support:tiny", "frozen": True, "expect": {"top5": 0.5}}}
    with pytest.raises(RecipeError, match=r"peers.t.expect.top5: is not scored: the data have 4 classes"):
        mutual.fit(parse_recipe(tiny_document(output=str(tmp_path), peers=peers, objectives=KD)))


def test_a_teacher_without_scores_is_never_enough(tmp_path, monkeypatch):
    """Outputs that are not numbers."""
    monkeypatch.setattr(
        Group, "predict", lambda self, images, peers, **_: {name: torch.full((len(images), 4), torch.nan) for name in peers}
    )
    peers = {"s": {"model": "support:tiny"}, "t": {"model": "support:tiny", "frozen": True, "expect": {"top1": 0.0}}}
    with pytest.raises(RecipeError, match=r"peers.t.expect.top1: top1 is nan"), pytest.warns(UserWarning, match=r"a top1 of nan% on 12"):
        mutual.fit(parse_recipe(tiny_document(output=str(tmp_path), peers=peers, objectives=KD)))


def test_a_teacher_that_knows_nothing_is_warned_of(teacher, tmp_path):
    """It begins with random weights, or its classes are in another order than they were."""
    message = (
        r"peer 't' begins with a top1 of \d+\.\d\d% on 355 validation images, and chance gives \d+\.\d\d%; the likely causes are another"
    )
    with pytest.warns(UserWarning, match=message):
        mutual.fit(parse_recipe(document(tmp_path, train={"epochs": 1, "progress": False})))


@pytest.mark.filterwarnings("ignore:peers.t. knows")
def test_a_teacher_of_some_classes_that_knows_nothing_is_warned_of(tmp_path):
    """It is right as often as of so few classes, by which it is scored, and not of all."""
    peers = {"s": {"model": "support:tiny"}, "t": {"model": "small_cnn", "frozen": True, "classes": [0, 1, 2, 3, 4, *[None] * 5]}}
    with pytest.warns(
        UserWarning, match=r"peer 't' begins with a top1 of \d+\.\d\d% on 1\d\d validation images, and chance gives [12]\d\."
    ):
        mutual.fit(parse_recipe(document(tmp_path, peers=peers, train={"epochs": 1, "progress": False})))


def test_a_teacher_that_knows_something_and_a_new_classifier_are_not_warned_of(teacher, tmp_path, recwarn):
    peers = {
        "s": {"model": "small_cnn"},
        "t": {"model": "small_cnn", "frozen": True, "weights": str(teacher)},
    }
    mutual.fit(parse_recipe(document(tmp_path, peers=peers, train={"epochs": 1, "progress": False})))
    assert not [each for each in recwarn if "begins with" in str(each.message)]


def test_a_file_without_its_classifier_is_not_warned_of(teacher, tmp_path, recwarn):
    """What has a new classifier knows nothing yet."""
    state = {name: tensor for name, tensor in safetensors.torch.load_file(teacher).items() if not name.startswith("fc.")}
    safetensors.torch.save_file(state, tmp_path / "backbone.safetensors")
    tuned = {"model": "small_cnn", "weights": {"file": str(tmp_path / "backbone.safetensors"), "head": "new"}}
    mutual.fit(
        parse_recipe(
            document(tmp_path, peers={"s": tuned}, objectives=KD[:1], data={**DIGITS, "subset": 64}, train={"epochs": 1, "progress": False})
        )
    )
    assert not [each for each in recwarn if "begins with a" in str(each.message)]


def test_a_peer_without_a_head_is_expected_nothing_where_it_is_not_scored(tmp_path):
    headless = {"model": "small_cnn", "weights": "t.pt", "frozen": True, "head": "none", "expect": {"map": 0.5}}
    peers = {"s": {"model": "support:tiny"}, "t": headless}
    data = {"dataset": "fake", "num_train": 8, "num_val": 8, "image_size": 8, "channels": 1, "num_classes": 4, "multi_label": True}
    with pytest.raises(RecipeError, match=r"peers.t.expect: 't' has no head, and is not scored where images have several labels each"):
        parse_recipe(tiny_document(peers=peers, data=data, objectives=[{"loss": "bce"}]))
