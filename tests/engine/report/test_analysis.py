"""analyse_run: what it finds of runs of every kind, and what it says of those that lack something."""

import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from support import ROOT, tiny_document

import mutual
from mutual.engine import RunFolder, analyse_run, score_run
from mutual.engine.storage import peer_files
from mutual.models import create_model
from mutual.recipe import InputError, load_recipe, parse_recipe

TINY = ("support:tiny",)


def train(output, **changes):
    sections = {"train": {"epochs": 2, "progress": False}, "peers": {"a": {"model": "support:tiny"}, "b": {"model": "support:tiny"}}}
    mutual.fit(parse_recipe(tiny_document(output=str(output), **{**sections, **changes})))
    return RunFolder(Path(output) / "tiny")


def scores_of(folder, **options):
    return score_run(folder.recipe(), peer_files(folder, None), **options).scores


def member(findings, name):
    return next(each for each in findings.members if each.name == name)


def assert_notes(findings, *texts):
    for text in texts:
        assert any(text in note for note in findings.notes), findings.notes


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The recipe that comes with the package, for two epochs."""
    output = tmp_path_factory.mktemp("digits")
    overrides = ["train.epochs=2", "train.progress=false", "data.subset=256", f"output={output}"]
    recipe = load_recipe(ROOT / "recipes" / "dml_pplcnet.yaml", overrides)
    mutual.fit(recipe)
    folder = RunFolder(output / "dml_pplcnet")
    return folder, analyse_run(folder)


def test_scores_are_those_of_evaluate(digits):
    folder, findings = digits
    expected = scores_of(folder, per_class=False)
    assert [each.name for each in findings.members] == ["a", "b", "ensemble"]
    for each in findings.members:
        assert each.scores == expected[each.name]
    pair = findings.pairs[0]
    assert pair.agreement == pytest.approx(expected["pairs"]["agreement"])
    assert (pair.kl + pair.reverse_kl) / 2 == pytest.approx(
        expected["pairs"]["kl"], rel=1e-4, abs=3e-7
    )  # there in float32 as the difference of two sums of about 2.3 nats


def test_calibration_counts_all_images_and_the_temperature_lowers_the_nll(digits):
    _, findings = digits
    assert findings.num_images == 355
    for each in findings.members:
        assert sum(each.reliability.counts) == 355
        assert each.reliability.nll == pytest.approx(each.scores["nll"], rel=1e-5)
        assert each.reliability.ece == pytest.approx(each.scores["ece"], abs=1e-5)
        assert each.scaled.nll <= each.reliability.nll
        assert [confidence is None for confidence in each.reliability.confidences] == [count == 0 for count in each.reliability.counts]
    assert_notes(findings, "fitted to the same validation images")


def test_confusion_and_classes_are_those_of_the_predictions(digits):
    _, findings = digits
    for each in findings.members:
        confusion = np.array(each.confusion)
        assert confusion.sum() == 355
        assert np.trace(confusion) / 355 == pytest.approx(each.scores["top1"])
        assert confusion.sum(axis=1).tolist() == [row["support"] for row in each.per_class.values()]
        label, predicted, count = each.confused[0]
        names = findings.class_names
        assert count == confusion[names.index(label), names.index(predicted)] == (confusion - np.diag(np.diag(confusion))).max()


def test_what_else_the_first_screen_needs(digits):
    folder, findings = digits
    assert findings.best_peer == folder.best_peer()
    assert findings.reason.startswith(f"{findings.best_peer} has the ")
    assert "the same size" in findings.reason
    assert len(findings.disagreements) == len(findings.mistakes) == 12
    for image in (*findings.disagreements, *findings.mistakes):
        assert image.thumbnail.startswith("data:image/png;base64,")
        assert image.predictions.keys() == {"a", "b", "ensemble"}
        assert image.index.startswith("image ")
    assert all(image.predictions[findings.best_peer][0] != image.label for image in findings.mistakes)
    sure = [image.predictions[findings.best_peer][1] for image in findings.mistakes]
    assert sure == sorted(sure, reverse=True)
    assert {(edge.learner, edge.source) for edge in findings.edges} == {("a", "labels"), ("b", "labels"), ("a", "b"), ("b", "a")}
    assert findings.pairs[0].cka.keys() == {("fc:input", "fc:input")}
    assert findings.pairs[0].agreement_by_epoch.keys() == findings.pairs[0].kl_by_epoch.keys() == {1, 2}
    assert findings.environment["device"]
    assert findings.summary.epoch == 2
    assert "x-environment" in findings.recipe_text
    assert (findings.test, findings.changes, findings.parent) == ({}, [], "")
    assert member(findings, "ensemble").flops == 2 * member(findings, "a").flops > 0
    assert member(findings, "ensemble").num_parameters == 2 * member(findings, "a").num_parameters


def test_a_part_of_the_images_is_said(digits):
    folder, _ = digits
    findings = analyse_run(folder, max_images=20)
    assert findings.num_images == 20
    assert_notes(findings, "20 of 355 validation images were predicted")
    with pytest.raises(InputError, match="max_images=0"):
        analyse_run(folder, max_images=0)


def test_a_run_that_is_unfinished_or_old_lacks_parts_alone(digits, tmp_path):
    folder = RunFolder(shutil.copytree(digits[0].path, tmp_path / "run"))
    (folder.path / "summary.json").unlink()
    (folder.path / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "eval": {"a": {"top1": 0.5}}}) + "\n")
    findings = analyse_run(folder)
    assert findings.summary is None
    assert findings.pairs[0].kl_by_epoch == findings.members[0].churn == {}
    assert_notes(findings, "has not been finished, or by an earlier version: metrics.jsonl has 1 of 2 epochs")
    (folder.path / "metrics.jsonl").write_text("{")
    assert_notes(analyse_run(folder), "is damaged")
    (folder.path / "best" / "best.json").unlink()
    with pytest.raises(InputError, match="no best weights yet"):
        analyse_run(folder)


def test_what_is_in_metrics_is_read_by_pair_and_member(tmp_path):
    folder = train(tmp_path)
    rows = {"a": {"churn": 0.25}, "pairs": {"agreement": 0.1, "kl": 9.0, "agreement/a/b": 0.5, "kl/a/b": 1.0, "kl/b/a": None}}
    (folder.path / "metrics.jsonl").write_text(json.dumps({"epoch": 2, "eval": rows}) + "\n")
    findings = analyse_run(folder, factories=TINY)
    assert member(findings, "a").churn == {2: 0.25}
    (pair,) = findings.pairs
    assert (pair.agreement_by_epoch, pair.kl_by_epoch) == ({2: 0.5}, {2: 1.0})
    assert pair.reverse_kl_by_epoch == {2: 9.0}


def test_test_images_are_scored_with_the_temperature_of_the_validation_images(tmp_path):
    data = {"dataset": "digits", "image_size": 8, "batch_size": 64, "val": 0.1}
    folder = train(tmp_path, data=data)
    findings, validation = analyse_run(folder, split="test", factories=TINY), analyse_run(folder, factories=TINY)
    expected = scores_of(folder, split="test", factories=TINY)
    assert findings.split == "test"
    for each in findings.members:
        assert each.scores == expected[each.name]
        assert each.temperature == member(validation, each.name).temperature
        assert each.scores == pytest.approx(findings.test[each.name])
    assert_notes(findings, "validation images, which are not those of the scores")
    assert not any("optimistic" in note for note in findings.notes)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A student, a teacher with weights, one without, one that knows some classes, and an embedding net."""
    folder = tmp_path_factory.mktemp("distilled")
    for name, classes in (("t", 4), ("p", 3), ("e", 4)):
        model = create_model("small_cnn", num_classes=classes, in_channels=1)
        (folder / f"{name}.safetensors").write_bytes(safetensors.torch.save(model.state_dict()))
    peers = {
        "t": {"model": "small_cnn", "frozen": True, "weights": str(folder / "t.safetensors")},
        "s": {"model": "support:tiny"},
        "p": {
            "model": "small_cnn",
            "frozen": True,
            "weights": str(folder / "p.safetensors"),
            "classes": [2, None, 0, 1],
            "args": {"num_classes": 3},
        },
        "lost": {"model": "small_cnn", "frozen": True},
        "e": {"model": "small_cnn", "frozen": True, "head": "none", "weights": str(folder / "e.safetensors")},
        "gone": {"model": "small_cnn", "frozen": True, "head": "none"},
    }
    objectives = [
        {"loss": "cross_entropy"},
        {"loss": "kd", "sources": ["t", "p", "lost"]},
        {"loss": "similarity", "at": "body", "sources": ["e", "gone"], "source_at": "embedding"},
    ]
    with pytest.warns(UserWarning, match="knows 3 of the data's 4 classes"):
        return train(folder, peers=peers, objectives=objectives)


def test_frozen_peers_are_shown_where_their_weights_are(distilled):
    findings = analyse_run(distilled, factories=TINY)
    assert [(each.name, each.is_frozen) for each in findings.members] == [("t", True), ("s", False), ("p", True), ("e", True)]
    assert member(findings, "e").scores.keys() == {"top1"}, "by its nearest neighbours, when the run began"
    assert findings.best_peer == "s"
    assert "s is the one peer that was trained" in findings.reason
    assert "The frozen peer that taught it: t has" in findings.reason
    assert [(pair.first, pair.second) for pair in findings.pairs if "e" not in (pair.first, pair.second)] == [
        ("s", "t"),
        ("t", "p"),
        ("s", "p"),
    ]
    assert all(0 <= pair.agreement <= 1 for pair in findings.pairs if math.isfinite(pair.agreement))
    assert findings.pairs[0].cka.keys() == {("body", "fc:input")}
    before = json.loads((distilled.path / "metrics.jsonl").read_text().splitlines()[0])["eval"]
    for name in ("t", "p"):
        assert member(findings, name).scores == pytest.approx(before[name])
    partial = member(findings, "p")
    assert list(partial.per_class) == ["0", "2", "3"]
    assert partial.confusion[1] == [row[1] for row in partial.confusion] == [0, 0, 0, 0]
    assert sum(map(sum, partial.confusion)) == sum(partial.reliability.counts) == sum(row["support"] for row in partial.per_class.values())
    assert_notes(findings, *(f"{name}, which is not trained in this run, is left out" for name in ("lost", "gone")))
    assert_notes(findings, "e has no classifier", "p knows 3 of 4 classes")


def test_jobs_that_learn_from_each_other_show_each_others_peers(tmp_path):
    for peer in ("a", "b"):  # the first finds nobody
        exchange = {"kind": "stale", "folder": str(tmp_path / "exchange"), "trains": [peer], "every": 2}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="nobody has published")
            train(tmp_path, name=f"tiny_{peer}", exchange=exchange)
    folder = RunFolder(tmp_path / "tiny_b")
    findings = analyse_run(folder, factories=TINY)
    assert [(each.name, each.is_frozen) for each in findings.members] == [("a", True), ("b", False)]
    assert_notes(findings, f"a, which another job trains, is shown by the best weights in {tmp_path / 'tiny_a'}")
    assert [(pair.first, pair.second) for pair in findings.pairs] == [("b", "a")]
    shutil.rmtree(tmp_path / "tiny_a")
    findings = analyse_run(folder, factories=TINY)
    assert [each.name for each in findings.members] == ["b"]
    assert_notes(findings, "a, which is not trained in this run, is left out")


def test_code_of_the_users_own_runs_at_the_users_word_alone(distilled):
    with pytest.raises(InputError, match="add --factory support:tiny"):
        analyse_run(distilled)


def test_several_labels(tmp_path):
    data = {**tiny_document()["data"], "multi_label": True}
    folder = train(tmp_path, data=data, objectives=[{"loss": "bce"}])
    findings, expected = analyse_run(folder, factories=TINY), scores_of(folder, factories=TINY)
    for each in findings.members:
        assert each.scores == pytest.approx(expected[each.name], nan_ok=True)
        assert (each.reliability, each.temperature, each.scaled, each.confusion, each.confused) == (None, None, None, [], [])
    assert findings.pairs[0].agreement == pytest.approx(expected["pairs"]["agreement"])
    assert (findings.pairs[0].kl + findings.pairs[0].reverse_kl) / 2 == pytest.approx(expected["pairs"]["kl"], rel=1e-4)
    assert findings.disagreements == findings.mistakes == []
    assert_notes(findings, "images have several labels")


def test_one_peer_alone_and_many_classes(tmp_path):
    data = {**tiny_document()["data"], "num_classes": 1000}
    folder = train(tmp_path, data=data, peers={"a": {"model": "support:tiny"}}, objectives=[{"loss": "cross_entropy"}])
    findings = analyse_run(folder, factories=TINY)
    assert (findings.pairs, findings.disagreements, member(findings, "a").confusion) == ([], [], [])
    assert len(member(findings, "a").confused) <= 20
    assert_notes(findings, "of 1,000 classes the most frequent mistakes are listed")


@pytest.fixture
def photos(tmp_path):
    """A folder of images, one of them damaged after the training."""
    generator = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(number):
                Image.fromarray(generator.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "photos"


def test_damaged_images_are_left_out_and_missing_data_are_a_line(photos, tmp_path):
    data = {"dataset": "image_folder", "root": str(photos), "image_size": 8, "batch_size": 4, "workers": 0}
    folder = train(tmp_path, data=data)
    (photos / "val" / "dog" / "2.png").write_bytes(b"no image")
    findings = analyse_run(folder, factories=TINY)
    assert findings.num_images == 7
    assert_notes(findings, "1 validation images could not be read and are left out")
    places = {image.index for image in (*findings.disagreements, *findings.mistakes)}
    assert places <= {f"{name}/{index}.png" for name in ("cat", "dog") for index in range(4)} - {"dog/2.png"}
    moved = photos.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="data") as caught:
        analyse_run(folder, factories=TINY)
    assert "\n" not in str(caught.value)
    assert analyse_run(folder, factories=TINY, overrides=[f"data.root={moved}"]).num_images == 7


def test_a_runs_own_data_are_made_at_the_users_word_alone(tmp_path):
    data = {"dataset": "users_data:make", "image_size": 8, "batch_size": 4}
    folder = train(tmp_path, data=data)
    with pytest.raises(InputError, match="add --dataset users_data:make"):
        analyse_run(folder, factories=TINY)
    assert analyse_run(folder, factories=TINY, datasets=["users_data:make"]).num_images > 0


def test_what_differs_from_the_run_before(tmp_path):
    first = train(tmp_path / "first")
    peers = {"a": {"model": "support:tiny", "weights": str(first.weights("best", "a"))}, "b": {"model": "support:tiny"}}
    second = train(tmp_path / "second", peers=peers, seed=1, objectives=[{"loss": "cross_entropy"}, {"loss": "dml", "weight": 2.0}])
    findings = analyse_run(second, factories=TINY)
    assert findings.parent == str(first.path)
    changed = {path: (there, here) for path, there, here in findings.changes}
    assert changed == {
        "peers.a.weights": ("null", repr(str(first.weights("best", "a")))),
        "objectives.1.weight": ("1.0", "2.0"),
    }
    shutil.rmtree(first.path)
    assert analyse_run(second, factories=TINY).parent == ""


def test_switches_of_the_process_stay_as_they_were(digits, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)  # the recipe's is false
    analyse_run(digits[0], max_images=20)
    assert torch.backends.cudnn.benchmark is True
