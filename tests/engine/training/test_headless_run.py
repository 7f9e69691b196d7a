"""A run with peers without a head: scored once, never saved, and resumed bit for bit."""

import json
import shutil

import pytest
import torch
from support import digests, tiny_document, train_epochs

import mutual
from mutual.recipe import InputError, load_recipe, parse_recipe


def recipe_of(output, **changes):
    document = tiny_document(
        output=str(output),
        peers={
            "s": {"model": "support:tiny", "args": {"norm": True, "dropout": 0.3}},
            "t": {"model": "support:embedding", "frozen": True, "head": "none", "standardize": True},
            "u": {"model": "small_cnn", "frozen": True, "head": "none", "standardize": True},
        },
        objectives=[
            {"loss": "cross_entropy"},
            {"loss": "similarity", "at": "body", "sources": ["t", "u"], "source_at": "embedding"},
            {"loss": "hint", "at": "body", "sources": ["t", "u"], "source_at": "embedding"},
            {"loss": "rkd_angle", "at": "body", "sources": ["u"], "source_at": "blocks3"},
        ],
        optimizer={"name": "sgd", "lr": 0.02, "momentum": 0.9},
        train={"epochs": 2, "progress": False, "ema": 0.9},
        checkpoint={"every_steps": 1, "keep": 100},
    )
    return parse_recipe({**document, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of ten updates, with a checkpoint of each."""
    return mutual.fit(recipe_of(tmp_path_factory.mktemp("whole")))


def test_only_peers_with_a_head_are_evaluated_saved_and_best(whole):
    assert whole.best_peer == "s"
    assert set(whole.metrics) == {"s", "t", "u"}
    for kind in ("last", "best"):
        assert [path.name for path in (whole.folder / kind).glob("*.safetensors")] == ["s.safetensors"]
    for line in (whole.folder / "metrics.jsonl").read_text().splitlines():
        first, row = json.loads(line)["epoch"] == 0, json.loads(line)["eval"]
        assert set(row) == ({"t", "u"} if first else {"s", "t", "u"})
        assert row["t"] == whole.metrics["t"], "scored once, when the run began"
    with pytest.raises(InputError, match="t"):
        mutual.load_peer(whole.folder, peer="t", factory="support:embedding")


@pytest.mark.parametrize("step", [3, 5])
def test_a_run_goes_on_from_any_checkpoint_as_it_went(whole, tmp_path, step, capsys):
    """Statistics of embeddings are in no checkpoint: they are computed again, and are the same."""
    folder = shutil.copytree(whole.folder, tmp_path / whole.folder.name)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    mutual.fit(recipe_of(tmp_path), resume=True)
    assert digests(folder) == digests(whole.folder)


def test_each_is_scored_once_when_the_run_begins(tmp_path, capsys):
    mutual.fit(recipe_of(tmp_path))
    lines = [line for line in capsys.readouterr().out.splitlines() if "nearest training images" in line]
    assert [line.partition(": top1 ")[0].strip() for line in lines] == ["before | t (frozen)", "before | u (frozen)"]
    assert all(line.endswith("% by its nearest training images") for line in lines)


def test_the_resolved_recipe_says_what_has_no_head(whole):
    peers = load_recipe(whole.folder / "recipe.yaml").peers
    assert {name: peer.head for name, peer in peers.items()} == {"s": "classifier", "t": "none", "u": "none"}


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_both_kinds_of_update_and_accumulation_train(tmp_path, update):
    group = train_epochs(recipe_of(tmp_path, train={"epochs": 1, "progress": False, "update": update, "accumulate": 2}).model_dump())
    assert all(value.isfinite().all() for value in group.peers["s"].model.state_dict().values())


def test_images_of_several_labels_each_are_not_scored_by_neighbours(tmp_path, capsys):
    data = {**tiny_document()["data"], "dataset": "fake", "multi_label": True}
    objectives = [{"loss": "bce"}, {"loss": "similarity", "at": "body", "sources": ["t"], "source_at": "embedding"}]
    mutual.fit(recipe_of(tmp_path, data=data, objectives=objectives))
    assert "nearest" not in capsys.readouterr().out


def test_weights_of_a_whole_classifier_teach_without_its_head(whole, tmp_path):
    """Also where its classes are others than the data's, as nobody asks for them."""
    weights = str(whole.folder / "best" / "s.safetensors")
    peers = {
        "a": {"model": "support:double"},
        "t": {"model": "support:bodied", "frozen": True, "head": "none", "weights": weights, "args": {"norm": True}},
    }
    data = {**tiny_document()["data"], "num_classes": 6}
    objectives = [{"loss": "cross_entropy"}, {"loss": "similarity", "at": "body", "sources": ["t"], "source_at": "embedding"}]
    group = train_epochs(tiny_document(peers=peers, objectives=objectives, data=data))
    saved = mutual.load_peer(whole.folder, factory="support:tiny")
    images = torch.rand(3, 1, 8, 8)
    seen = []
    saved.head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    saved(images)
    assert torch.equal(group.peers["t"].embed(images), seen[0])
