"""A run that goes on from any of its checkpoints ends as it did, in one process; signals and kills are in `test_checkpointer`."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from support import digests, tiny_document

import mutual
from mutual.engine.evaluation import ChurnMeter
from mutual.engine.monitoring import NonFiniteLossError
from mutual.engine.runtime import StoppedError
from mutual.engine.storage import RunFolder
from mutual.engine.training.checkpointer import _local_buffers, _tensor_bytes
from mutual.engine.training.peer_optimizer import PeerOptimizer
from mutual.group import Communicator
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


def test_of_an_older_checkpoint_the_next_evaluation_has_no_churn(whole, tmp_path, monkeypatch):
    """It has no predictions; all else is as it was."""
    monkeypatch.setattr(ChurnMeter, "state_dict", lambda self: {})
    older = mutual.fit(recipe_of(tmp_path / "older")).folder
    monkeypatch.undo()
    folder = cut(older, tmp_path, 8)
    mutual.fit(recipe_of(tmp_path), resume=True)
    expected, found = digests(whole), digests(folder)
    assert [name for name, row in expected["metrics"][-1]["eval"].items() if row.pop("churn", None) is not None] == ["a", "b", "ensemble"]
    assert found == expected
    assert not any("churn" in row for row in found["best"]["peers"].values())


def test_a_run_without_averages_and_statistics_goes_on_too(tmp_path):
    peers = {name: {"model": "support:tiny"} for name in "ab"}
    plain = {"peers": peers, "objectives": [{"loss": "cross_entropy"}], "train": {"epochs": 1, "progress": False}}
    whole = mutual.fit(recipe_of(tmp_path / "whole", **plain)).folder
    folder = cut(whole, tmp_path / "cut", 2)
    mutual.fit(recipe_of(tmp_path / "cut", **plain), resume=True)
    assert digests(folder) == digests(whole)


def test_checkpoints_are_written_when_the_recipe_says_so_and_at_the_end(tmp_path):
    """Of three epochs of five updates: after every second one, every second epoch, and the last."""
    train, checkpoint = {"epochs": 3, "progress": False}, {"every_steps": 2, "every_epochs": 2, "keep": 100}
    peers = {"a": {"model": "support:tiny"}}
    recipe = recipe_of(tmp_path, peers=peers, objectives=[{"loss": "cross_entropy"}], train=train, checkpoint=checkpoint)
    folder = mutual.fit(recipe).folder
    steps = sorted(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").iterdir())
    assert steps == [2, 4, 6, 8, 10, 12, 14, 15]


@pytest.mark.parametrize("update", [1, 2])
def test_a_signal_stops_a_run_after_its_update_with_a_checkpoint(whole, tmp_path, monkeypatch, update):
    """In the middle of an epoch, and in its last update."""
    step = PeerOptimizer.step

    def interrupted(self, number, **arguments):
        step(self, number, **arguments)
        if number == update and self.peer.name == "a":
            os.kill(os.getpid(), signal.SIGTERM)

    recipe = recipe_of(tmp_path, checkpoint={"keep": 100})
    with monkeypatch.context() as patch:
        patch.setattr(PeerOptimizer, "step", interrupted)
        with pytest.raises(StoppedError, match=rf"^stopped by SIGTERM after step {update + 1}; the checkpoint is written"):
            mutual.fit(recipe)
    assert [path.name for path in (tmp_path / "tiny" / "checkpoints").iterdir()] == [f"step_{update + 1:08d}"]
    mutual.fit(recipe, resume=True)
    assert digests(tmp_path / "tiny") == digests(whole)


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
    with pytest.warns(UserWarning, match=r"best/a.safetensors is missing or damaged; the best of peer 'a' is determined again"):
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
    with pytest.raises(RecipeError, match=r"^peers.t.weights: these are not the weights that the run was started with"):
        mutual.fit(recipe_of(tmp_path), resume=True)


def test_buffers_are_those_of_the_rank_or_their_mean_where_ranks_are_others():
    saved = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    comms = [Communicator(0, 1, torch.device("cpu")), SimpleNamespace(rank=1, size=2)]
    assert [_local_buffers(saved, comm).tolist() for comm in comms] == [[2.0, 4.0], [3.0, 6.0]]
    rested = torch.tensor([0.1, 0.7], dtype=torch.float64)
    assert torch.equal(_local_buffers(rested.expand(3, 2), comms[0]), rested), "what does not move is no mean of three"


def test_weights_are_saved_whatever_their_layout_and_wherever_they_are_shared():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model.to(memory_format=torch.channels_last)
    model[2].weight = model[1].weight
    loaded = safetensors.torch.load(_tensor_bytes(model))
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_weights_that_are_not_finite_are_saved_nowhere(tmp_path, monkeypatch):
    """No loss has shown it: the last step's gradient was not finite."""
    step = PeerOptimizer.step

    def spoiled(self, update, **arguments):
        step(self, update, **arguments)
        if self.peer.name == "b" and update == 2:
            with torch.no_grad():
                self.peer.model.head.bias[0] = torch.nan

    monkeypatch.setattr(PeerOptimizer, "step", spoiled)
    with pytest.raises(NonFiniteLossError, match=r"^step 3: the weights of peer 'b' are not finite; lower the learning rate"):
        mutual.fit(recipe_of(tmp_path))
    assert {path.name for path in (tmp_path / "tiny" / "checkpoints").iterdir()} == {"step_00000001", "step_00000002"}


def test_the_resolved_recipe_has_what_a_checkpoint_is_of(whole):
    assert load_recipe(whole / "recipe.yaml").train.accumulate == 2
    checkpoint = whole / "checkpoints" / "step_00000004"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"training.pt", *(f"{name}{suffix}" for name in "ab" for suffix in (".pt", ".safetensors", ".average.safetensors"))} <= names
    assert not any(name.startswith("t.") for name in names), "frozen weights are not saved again"
    state = torch.load(checkpoint / "training.pt", weights_only=True)
    assert state["progress"] == {"epoch": 1, "window": 1, "update": 4}
