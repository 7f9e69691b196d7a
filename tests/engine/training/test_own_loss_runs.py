"""Trainings with losses of the user's own: resumed, on several processes, with stores, by the command line; and what never runs them."""

import json
import shutil

import pytest
import yaml
from PIL import Image
from support import assert_equal_weights, digests, run, tiny_document, train_epochs, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mutual
from mutual import bench, evaluate, export, predict, train
from mutual.recipe import RecipeError, parse_recipe

CE = {"loss": "cross_entropy"}
OWN = [
    {"loss": "own_losses:cross_entropy", "args": {"label_smoothing": 0.1}},
    {"loss": "own_losses:Hint", "at": "body"},
    {"loss": "own_losses:Masked", "at": "body", "weight": 0.1},
    {"loss": "own_losses:noisy"},
]
TEACHER = {"model": "support:double", "args": {"width": 6, "norm": True}, "frozen": True}
MY_LOSSES = """\
from pathlib import Path

import torch.nn.functional as F

Path("imported").touch()


def margin(learner, source, *, power=2.0):
    return (F.softmax(learner, dim=1) - F.softmax(source, dim=1)).abs().pow(power).sum(dim=1)
"""


def recipe_of(output, **changes):
    peers = {"a": {"model": "support:tiny", "args": {"norm": True}}, "b": {"model": "support:tiny", "args": {"width": 6}}}
    document = tiny_document(output=str(output), peers=peers, objectives=OWN, checkpoint={"every_steps": 1, "keep": 100})
    document["data"] |= {"num_train": 20}
    document["optimizer"]["lr"] = 0.05
    return parse_recipe({**document, **changes})


def test_a_resumed_run_ends_as_it_did(tmp_path):
    """Weights of losses, their optimizers and the random numbers that losses draw go on as they were."""
    whole = mutual.fit(recipe_of(tmp_path / "whole")).folder
    folder = shutil.copytree(whole, tmp_path / "cut" / whole.name)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > 4:
            shutil.rmtree(path)
    mutual.fit(recipe_of(tmp_path / "cut"), resume=True)
    assert digests(folder) == digests(whole)
    changed = [{**OWN[0], "args": {"label_smoothing": 0.2}}, *OWN[1:]]
    with pytest.raises(RecipeError, match="objectives"):
        mutual.fit(recipe_of(tmp_path / "cut", objectives=changed), resume=True)


@pytest.mark.slow
def test_processes_and_placements_train_as_one_and_as_with_our_losses(tmp_path):
    """Case by case in tests/own_loss_checks.py: gathered, gated, masked, scheduled, with weights; to 1e-10 in float64."""
    done = run("own_loss_checks", tmp_path, processes=2)
    assert done.stdout.splitlines()[-1] == "equal"


@pytest.mark.slow
def test_a_loss_that_is_refused_ends_all_processes_with_a_line(tmp_path):
    document = tiny_document(objectives=[CE, {"loss": "own_losses:failing"}], output=str(tmp_path))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    done = run("mutual.train", tmp_path / "recipe.yaml", processes=2, expect=1)
    lines = [line for line in done.stderr.splitlines() if "own_losses:failing" in line]
    assert len(lines) == 1
    assert "objectives.1.loss: own_losses:failing fails at " in lines[0]
    assert not (tmp_path / "tiny").exists()


@pytest.mark.filterwarnings("ignore:the store of")
@pytest.mark.parametrize("name", ["hint", "kd"])
def test_a_stored_teacher_teaches_as_by_our_losses(name, tmp_path):
    at, own = {"hint": ("body", "Hint"), "kd": ("logits", "kd_of_list")}[name]
    found = []
    for loss in (name, f"own_losses:{own}", f"own_losses:{own}"):
        store = {"folder": str(tmp_path / "store"), "views": 2, "topk": "all", "feature_maps": True}
        peers = {"a": {"model": "support:double"}, "t": {**TEACHER, "store": store}}
        objectives = [CE, {"loss": loss, "at": at, **({"args": {"temperature": [4.0]}} if loss.endswith("kd_of_list") else {})}]
        group = train_epochs(tiny_document(peers=peers, objectives=objectives))
        found.append(weights(group))
        for each in group.frozen_forwards.stores.values():
            each.close()
    for each in found[1:]:
        assert_equal_weights(each, found[0], tolerance=1e-10)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run by the command line, in a folder with the module of its loss; the test goes on there, without it."""
    folder = tmp_path_factory.mktemp("own")
    document = tiny_document(objectives=[CE, {"loss": "my_own_losses:margin", "args": {"power": 1.5}}])
    for spec in document["peers"].values():
        spec["model"] = "small_cnn"
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**document, "train": {"epochs": 1, "progress": False}}))
    (folder / "my_own_losses.py").write_text(MY_LOSSES)
    run("mutual.train", "recipe.yaml", cwd=folder)
    return folder


def test_a_run_is_trained_by_the_command_line_under_its_losss_name(trained):
    line = json.loads((trained / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()[-1])
    assert list(line["train"]["objectives"]) == ["cross_entropy", "my_own_losses:margin"]
    tags = EventAccumulator(str(trained / "runs" / "tiny")).Reload().Tags()["scalars"]
    assert [tag for tag in tags if "margin" in tag] == ["objective/my_own_losses:margin"]
    resolved = yaml.safe_load((trained / "runs" / "tiny" / "recipe.yaml").read_text())
    assert resolved["objectives"][1]["args"] == {"power": 1.5}


def test_no_file_chooses_the_code_of_a_loss(trained, monkeypatch, capsys):
    """A run's recipe names its loss; what reads the run runs nothing of it."""
    monkeypatch.chdir(trained)
    (trained / "imported").unlink(missing_ok=True)
    images = trained / "images"
    images.mkdir(exist_ok=True)
    Image.new("L", (8, 8)).save(images / "0.png")
    for verb, words in ((evaluate, ["--json"]), (predict, [str(images)]), (export, ["--output", str(trained / "shipped")])):
        assert verb.main(["runs/tiny", *words]) == 0, capsys.readouterr().err
    mutual.load_peer("runs/tiny")
    mutual.load_recipe("runs/tiny/recipe.yaml")
    assert not (trained / "imported").exists()


def test_a_mistake_in_a_loss_is_a_line_and_leaves_no_run(tmp_path, capsys):
    document = tiny_document(objectives=[CE, {"loss": "own_losses:failing"}], output=str(tmp_path / "runs"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    assert train.main([str(tmp_path / "recipe.yaml")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{tmp_path / 'recipe.yaml'}: objectives.1.loss: own_losses:failing fails at a.logits (4,) and b.logits (4,): KeyError" in line
    assert not (tmp_path / "runs").exists()


def test_bench_measures_it(tmp_path, capsys):
    document = tiny_document(objectives=OWN, output=str(tmp_path / "runs"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    assert bench.main([str(tmp_path / "recipe.yaml"), "--rounds", "1", "--json"]) == 0
    (cost,) = json.loads(capsys.readouterr().out)
    assert cost["step_seconds"] > 0
