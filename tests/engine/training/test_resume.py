"""A run that goes on from any of its checkpoints ends as it did, in one process; signals and kills are in `test_checkpointer`."""

import json
import shutil

import pytest
import torch
from support import digests, tiny_document

import mutual
from mutual.engine.storage import RunFolder
from mutual.recipe import InputError, RecipeError, load_recipe, parse_recipe

TRAIN = {"epochs": 3, "accumulate": 2, "ema": 0.9, "ema_warmup": True, "progress": False, "log_every": 2, "eval_every": 2}


def recipe_of(output, **changes):
    args = {"norm": True, "dropout": 0.3}
    document = tiny_document(
        output=str(output),
        peers={
            "a": {"model": "support:tiny", "args": args},
            "b": {"model": "support:tiny", "args": {**args, "width": 6}, "optimizer": {"name": "adam", "lr": 0.01}},
            "t": {"model": "support:tiny", "frozen": True},
        },
        objectives=[
            {"loss": "cross_entropy"},
            {"loss": "dml"},
            {"loss": "hint", "at": "body", "sources": "peers_ema"},
            {"loss": "kd", "sources": ["t"]},
        ],
        schedule={"name": "cosine", "warmup_epochs": 1},
        train=TRAIN,
        checkpoint={"every_steps": 1, "keep": 100},
    )
    return parse_recipe({**document, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of nine updates, with a checkpoint of each."""
    return mutual.fit(recipe_of(tmp_path_factory.mktemp("whole"))).folder


def cut(whole, output, step):
    """A copy of the run as it was after so many updates, but for weights and metrics of later epochs."""
    folder = shutil.copytree(whole, output / whole.name)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    return folder


@pytest.mark.parametrize("step", [3, 5, 8])
def test_a_run_goes_on_from_any_checkpoint_as_it_went(whole, tmp_path, step):
    """In the middle of an epoch and of a logging interval, at an epoch's end, before and after an evaluation."""
    folder = cut(whole, tmp_path, step)
    result = mutual.fit(recipe_of(tmp_path), resume=True)
    assert result.folder == folder
    assert digests(folder) == digests(whole)
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [f"step_{number:08d}" for number in range(1, 10)]


def test_a_finished_run_that_is_resumed_stays_as_it_is(whole, tmp_path):
    folder = cut(whole, tmp_path, 9)
    before = digests(folder)
    assert (
        mutual.fit(recipe_of(tmp_path), resume=True).metrics == json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["eval"]
    )
    assert digests(folder) == before


def test_best_weights_that_are_lost_are_searched_anew(whole, tmp_path):
    folder = cut(whole, tmp_path, 7)
    (folder / "best" / "a.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"best/a.safetensors is missing or damaged; the best of peer 'a' is searched anew"):
        mutual.fit(recipe_of(tmp_path), resume=True)
    best = RunFolder(folder).read_best()
    assert best.peers["a"]["epoch"] == 3, "the one that was evaluated after it"
    assert best.sha256["best/a"] == [RunFolder(folder).digest("best", "a")]


def test_updates_of_another_size_are_not_gone_on_with(whole, tmp_path):
    cut(whole, tmp_path, 4)
    with pytest.raises(InputError, match=r"updates are of 16 images .*, this run's of 8; start as many processes"):
        mutual.fit(recipe_of(tmp_path, train={**TRAIN, "accumulate": 1}), resume=True)


def test_a_frozen_peer_with_other_weights_is_noticed(whole, tmp_path, monkeypatch):
    cut(whole, tmp_path, 4)
    monkeypatch.setattr("mutual.engine.training.checkpointer.sha256", lambda content: "another")
    with pytest.raises(RecipeError, match=r"^peers.t.weights: these are not the weights that the run was begun with"):
        mutual.fit(recipe_of(tmp_path), resume=True)


def test_the_resolved_recipe_has_what_a_checkpoint_is_of(whole):
    assert load_recipe(whole / "recipe.yaml").train.accumulate == 2
    checkpoint = whole / "checkpoints" / "step_00000004"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"training.pt", *(f"{name}{suffix}" for name in "ab" for suffix in (".pt", ".safetensors", ".average.safetensors"))} <= names
    assert not any(name.startswith("t.") for name in names), "frozen weights are not saved again"
    state = torch.load(checkpoint / "training.pt", weights_only=True)
    assert state["progress"] == {"epoch": 1, "window": 1, "update": 4}
