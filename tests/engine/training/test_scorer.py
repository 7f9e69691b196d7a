"""Peers that begin with weights or are frozen are scored once, before the first update, and what comes of it."""

import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from support import run, run_and_kill, tiny_document
from taught import DIGITS, document
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mutual
from mutual.engine.training import Callback
from mutual.engine.training.checkpointer import Checkpointer
from mutual.engine.training.scorer import Scorer
from mutual.engine.training.train_step import TrainStep
from mutual.group.peers import Peer
from mutual.recipe import RecipeError, parse_recipe


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def count_predictions(monkeypatch):
    """Names of the peers that are run in evaluations, as they are."""
    counted, predict = [], Peer.predict
    monkeypatch.setattr(Peer, "predict", lambda self, images: counted.append(self.name) or predict(self, images))
    return counted


def test_a_teacher_is_scored_before_the_first_update_and_not_again(teacher, tmp_path, monkeypatch, capsys):
    events, counted = [], count_predictions(monkeypatch)
    score, update = Scorer._score, TrainStep.simultaneous
    monkeypatch.setattr(Scorer, "_score", lambda self, *args, **named: events.append(args[1]) or score(self, *args, **named))
    monkeypatch.setattr(TrainStep, "simultaneous", lambda self, *args, **named: events.append("update") or update(self, *args, **named))
    result = mutual.fit(parse_recipe(document(tmp_path, teacher)))
    assert [event for index, event in enumerate(events) if event != (events[index - 1] if index else None)] == [
        ("t",),
        "update",
        ("s",),
        "update",
        ("s",),
    ]
    assert counted.count("s") == 2 * counted.count("t") > 0, "in each of two epochs, and once"
    first, *epochs = lines(result.folder)
    assert first == {"epoch": 0, "step": 0, "eval": {"t": first["eval"]["t"]}}
    assert first["eval"]["t"]["top1"] > 0.75
    assert [list(line["eval"]) for line in epochs] == [["s", "t", "pairs"]] * 2, "constant scores stand in every epoch"
    assert list(epochs[0]["eval"]["pairs"]) == ["agreement/s/t", "kl/s/t", "kl/t/s"], "one trained peer is no pair of trained ones"
    assert all(line["eval"]["t"] == first["eval"]["t"] for line in epochs)
    assert result.history == [first, *epochs]
    assert result.metrics == epochs[-1]["eval"]
    assert "2 epochs" in repr(result)
    row = first["eval"]["t"]
    expected = f" before | t (frozen): top1 {row['top1']:.2%}, nll {row['nll']:.4f}, ece {row['ece']:.4f}"
    printed = capsys.readouterr().out.splitlines()
    assert printed.index(expected) < printed.index(next(line for line in printed if line.startswith("  1/2")))
    scalars = EventAccumulator(str(result.folder)).Reload().Scalars("eval_top1/t")
    assert [point.step for point in scalars] == [0, 10, 20]
    assert [point.value for point in scalars] == pytest.approx([row["top1"]] * 3)


def test_scores_before_are_those_of_an_evaluation(teacher, tmp_path):
    """Of all peers, as they begin: trained ones with weights among them."""
    peers = {
        "s": {"model": "small_cnn", "weights": str(teacher)},
        "t": {"model": "small_cnn", "weights": str(teacher), "frozen": True},
        "new": {"model": "support:tiny"},
    }
    result = mutual.fit(parse_recipe(document(tmp_path, peers=peers, train={"epochs": 1, "progress": False})))
    first, last = lines(result.folder)
    assert list(first["eval"]) == ["s", "t"], "no ensemble and no pairs, as not all are scored"
    assert first["eval"]["s"] == first["eval"]["t"] == last["eval"]["t"]
    assert last["eval"]["s"] != first["eval"]["s"]
    assert list(last["eval"]) == ["s", "t", "new", "ensemble", "pairs"]


def test_what_compares_peers_compares_those_that_are_trained(teacher, tmp_path):
    """The agreement of two trained peers is the same whether a frozen one stands beside them or not."""
    peers = {name: {"model": "support:tiny"} for name in "ab"}
    both = []
    for name, beside in (("with", {"t": {"model": "small_cnn", "frozen": True, "weights": str(teacher)}}), ("without", {})):
        whole = document(tmp_path, name=name, peers={**peers, **beside}, objectives=[{"loss": "cross_entropy"}])
        both.append(mutual.fit(parse_recipe(whole)).metrics)
    assert both[0].pop("t")
    both[0]["pairs"] = {key: value for key, value in both[0]["pairs"].items() if not key.endswith("/t") and "/t/" not in key}
    assert both[0] == both[1]


def test_details_are_counted_where_they_are_asked_for_and_change_nothing(teacher, tmp_path, monkeypatch):
    """Trained peers' and the ensemble's, and the matrices of all; in a run that was resumed, too, whose teacher is then run again."""
    frozen = {"model": "small_cnn", "frozen": True, "weights": str(teacher)}
    peers = {"s": {"model": "support:tiny"}, "t": frozen, "s2": {"model": "support:tiny"}}
    recipe = parse_recipe(document(tmp_path, peers=peers, objectives=[{"loss": "cross_entropy"}]))
    plain = mutual.fit(recipe)
    evaluate, found = Scorer.evaluate, []

    def with_details(self, update):
        scores = evaluate(self, update, details=update > 10)
        found.append(self.details)
        return scores

    monkeypatch.setattr(Scorer, "evaluate", with_details)
    asked = mutual.fit(recipe.model_copy(update={"name": "asked"}))
    assert [line["eval"] for line in asked.history] == [line["eval"] for line in plain.history]
    nothing, details = found
    assert nothing is None
    assert list(details.members) == ["s", "s2", "ensemble"]
    for name, member in details.members.items():
        assert member.confusion_CC.sum() == member.reliability.counts_K.sum() == 355
        assert member.confusion_CC.diagonal().sum() / 355 == pytest.approx(asked.metrics[name]["top1"])
        assert member.reliability.ece == pytest.approx(asked.metrics[name]["ece"], rel=1e-5)
    assert details.peers == ("s", "t", "s2")
    assert details.agreement_PP[0, 1] == asked.metrics["pairs"]["agreement/s/t"]
    assert details.kl_PP[0, 1] == asked.metrics["pairs"]["kl/s/t"]
    shutil.rmtree(asked.folder / "checkpoints" / "step_00000020")
    mutual.fit(recipe.model_copy(update={"name": "asked"}), resume=True)
    assert len(found) == 3
    assert torch.equal(found[-1].kl_PP, details.kl_PP)
    assert torch.equal(found[-1].members["s"].confusion_CC, details.members["s"].confusion_CC)


def test_a_run_without_such_peers_begins_at_once(tmp_path, monkeypatch):
    scored, score = [], Scorer._score
    monkeypatch.setattr(Scorer, "_score", lambda self, *args, **named: scored.append(args[1]) or score(self, *args, **named))
    result = mutual.fit(parse_recipe(tiny_document(output=str(tmp_path))))
    assert scored == [("a", "b")] * 2
    assert [record["epoch"] for record in result.history] == [1, 2]
    assert not (result.folder / "initial_scores.json").exists()


def test_callbacks_begin_without_scores_and_then_see_all(teacher, tmp_path):
    seen = []

    class Look(Callback):
        def begin(self, state):
            seen.append(list(state.scores))

        def epoch(self, state):
            seen.append(list(state.scores))

    mutual.fit(parse_recipe(document(tmp_path, teacher)), callbacks=[Look()])
    assert seen == [[], ["s", "t", "pairs"], ["s", "t", "pairs"]]


@pytest.mark.filterwarnings("ignore:peer 't' begins")
def test_a_run_that_goes_on_does_not_score_a_teacher_again(teacher, tmp_path, monkeypatch):
    """From a checkpoint, and before there is one: the scores are taken from what the run has written.

    Only what it says of each image is computed once more, to be compared with what the student says.
    """
    recipe = parse_recipe(document(tmp_path / "cut", teacher))
    whole = mutual.fit(parse_recipe(document(tmp_path / "whole", teacher)))
    for step in (0, 3, 18):
        folder = shutil.copytree(whole.folder, tmp_path / "cut" / "tiny")
        for path in (folder / "checkpoints").iterdir():
            if int(path.name.removeprefix("step_")) > step:
                shutil.rmtree(path)
        if step == 0:
            for name in ("last", "best"):
                shutil.rmtree(folder / name)
        counted = count_predictions(monkeypatch)
        result = mutual.fit(recipe, resume=True)
        monkeypatch.undo()
        assert counted.count("t") == counted.count("s") / (1 if step == 18 else 2), "in one evaluation, of one or two"
        assert [{**line, "train": None} for line in result.history] == [{**line, "train": None} for line in whole.history]
        assert result.metrics == whole.metrics
        shutil.rmtree(folder)


def other_data(folder, recipe):
    recipe["data"] = {**DIGITS, "subset": 320}


def damaged(folder, recipe):
    (folder / "initial_scores.json").write_text('{"digest": ')


def of_other_peers(folder, recipe):
    content = json.loads((folder / "initial_scores.json").read_text())
    (folder / "initial_scores.json").write_text(json.dumps({**content, "eval": {}}))


def other_weights(folder, recipe):
    tensors = safetensors.torch.load_file(recipe["peers"]["t"]["weights"])
    path = folder.parent / "other.safetensors"
    path.write_bytes(safetensors.torch.save({name: tensor + torch.ones_like(tensor) for name, tensor in tensors.items()}))
    recipe["peers"]["t"]["weights"] = str(path)


@pytest.mark.filterwarnings("ignore:peer 't' begins")
@pytest.mark.parametrize("change", [other_data, damaged, of_other_peers, other_weights])
def test_scores_of_something_else_are_not_taken_over(teacher, tmp_path, monkeypatch, change):
    """Where no checkpoint is left a run begins again, whatever lay there: with other weights or data it scores them."""
    recipe = document(tmp_path, teacher, train={"epochs": 1, "progress": False})
    folder = mutual.fit(parse_recipe(recipe)).folder
    for name in ("checkpoints", "last", "best"):
        shutil.rmtree(folder / name)
    change(folder, recipe)
    counted = count_predictions(monkeypatch)
    resumed = mutual.fit(parse_recipe(recipe), resume=True)
    assert "t" in counted
    monkeypatch.undo()
    assert resumed.history[0]["eval"] == mutual.fit(parse_recipe({**recipe, "name": "anew"})).history[0]["eval"]


def test_a_checkpoint_without_scores_of_the_beginning_is_gone_on_with(teacher, tmp_path, monkeypatch):
    """Of an earlier version: frozen peers are scored when it goes on, and epoch 0 is not made up."""
    recipe = parse_recipe(document(tmp_path, teacher))
    folder = mutual.fit(recipe).folder
    for step in (path for path in (folder / "checkpoints").iterdir() if path.name != "step_00000018"):
        shutil.rmtree(step)
    restore = Checkpointer.restore

    def earlier(self, files, folder):
        restored = restore(self, files, folder)
        return replace(restored, lines=[line for line in restored.lines if '"epoch": 0' not in line])

    monkeypatch.setattr(Checkpointer, "restore", earlier)
    result = mutual.fit(recipe, resume=True)
    assert [(line["epoch"], list(line["eval"])) for line in result.history] == [(1, ["s", "t", "pairs"]), (2, ["s", "t", "pairs"])]
    assert result.history[1]["eval"]["t"] == result.history[0]["eval"]["t"]


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["replicated", "parallel"])
def test_two_processes_score_as_one(teacher, tmp_path, placement):
    """Each image is counted once, whichever rank computes it, and so is each pair's, and what changes between evaluations.

    An expectation that fails ends all with one line.
    """
    peers = {
        "s": {"model": "support:double"},
        "s2": {"model": "support:double", "args": {"width": 5}},
        "t": {"model": "small_cnn", "frozen": True, "weights": str(teacher)},
        "random": {"model": "small_cnn", "frozen": True},
    }
    whole = document(tmp_path, peers=peers, placement=placement)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(whole))
    done = run("mutual.train", path, "peers.t.expect={top1: 0.99}", processes=2, expect=1)
    assert len([line for line in done.stderr.splitlines() if "peers.t.expect.top1: top1 is 0." in line]) == 1
    assert not (tmp_path / "tiny").exists()
    two = run("mutual.train", path, "name=two", processes=2)
    one = run("mutual.train", path, "name=one", "placement=replicated", "data.batch_size=128")
    (warned,) = [line for line in one.stderr.splitlines() if "on 355 validation images, and chance gives" in line]
    assert [line for line in two.stderr.splitlines() if "begins with" in line] == [warned]
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert list(two["eval"]) == list(one["eval"])
        for member, row in one["eval"].items():
            assert two["eval"][member] == pytest.approx(row, abs=1e-6), member
    assert lines(tmp_path / "two")[0]["eval"]["t"] == lines(tmp_path / "two")[1]["eval"]["t"]
    last = lines(tmp_path / "two")[-1]["eval"]
    assert len(last["pairs"]) == 2 + 6 + 12
    assert [name for name, row in last.items() if "churn" in row] == ["s", "s2", "ensemble"]


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_it_goes_on_with_the_scores_that_are_there(teacher, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(document(tmp_path, teacher, checkpoint={"every_epochs": 2})))
    record = tmp_path / "tiny" / "initial_scores.json"
    run_and_kill("mutual.train", path, when=lambda: (tmp_path / "tiny" / "metrics.jsonl").exists() and record.exists())
    content = json.loads(record.read_text())
    content["eval"]["t"]["ece"] = 0.125  # shows that it is read
    record.write_text(json.dumps(content))
    run("mutual.train", path, "--resume")
    assert [line["eval"]["t"]["ece"] for line in lines(tmp_path / "tiny")] == [0.125] * 3


def test_a_run_is_not_resumed_with_other_classes_in_the_file_that_names_them(teacher, tmp_path):
    """Neither are the scores before its first update those of other classes."""
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(map(str, range(10))))
    frozen = {"model": "small_cnn", "frozen": True, "weights": str(teacher), "classes": str(names)}
    peers = {"s": {"model": "support:tiny"}, "t": frozen}
    sections = {"peers": peers, "data": {**DIGITS, "subset": 64}, "train": {"epochs": 1, "progress": False}}
    first = mutual.fit(parse_recipe(document(tmp_path, **sections)))
    names.write_text("\n".join(map(str, [1, 0, *range(2, 10)])))
    with pytest.raises(RecipeError, match=r"peers.t.classes: its outputs stand for other classes than when the run was started"):
        mutual.fit(parse_recipe(document(tmp_path, **sections)), resume=True)
    names.write_text("\n".join(map(str, range(10))))
    assert mutual.fit(parse_recipe(document(tmp_path, **sections)), resume=True).metrics["t"] == first.metrics["t"]
