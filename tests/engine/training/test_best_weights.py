"""Which weights are the best, what the files and best.json say of them, and what is believed of them when a run is resumed."""

import math

import pytest
import torch
from support import WORLD, build, tiny_document

from mutual.engine.storage import RunFolder
from mutual.engine.training.best_weights import BestWeights
from mutual.engine.training.peer_card import peer_card
from mutual.engine.training.peer_collector import PeerCollector
from mutual.group import Communicator
from mutual.models import read_card


class OtherRank(PeerCollector):
    """The collector of a rank that is not the main one."""

    def collect_to_main(self, peer, make):
        return None


def row(top1, nll=1.0):
    return {"top1": top1, "nll": nll}


@pytest.fixture
def make(tmp_path):
    """Builds the best weights of two peers in one folder; `**train` as in a recipe."""

    def built(**train):
        peers = {name: {"model": "small_cnn"} for name in "ab"}
        recipe, data, group, _ = build(tiny_document(peers=peers, train=train))
        cards = {name: peer_card(recipe, name, data, group.inputs[name]) for name in group.peers}
        return BestWeights(recipe.resolved(), RunFolder(tmp_path), group, cards, PeerCollector(WORLD, group.placement))

    return built


def state(tmp_path):
    best = RunFolder(tmp_path).read_best()
    return best.peer, {name: scores["epoch"] for name, scores in best.peers.items()}


def test_the_best_are_kept_and_the_last_are_always_written(make, tmp_path):
    best, folder = make(), RunFolder(tmp_path)
    assert best.best_peer is None
    best.finish_epoch(1, None)
    assert RunFolder(tmp_path).read_best().peer is None, "no epoch has been evaluated"
    assert {path.name for path in tmp_path.rglob("*.safetensors")} == {"a.safetensors", "b.safetensors"}
    assert not list((tmp_path / "best").glob("*.safetensors"))
    best.finish_epoch(2, {"a": row(0.5), "b": row(0.4)})
    assert state(tmp_path) == ("a", {"a": 2, "b": 2})
    best.finish_epoch(3, {"a": row(0.4), "b": row(0.6)})
    assert state(tmp_path) == ("b", {"a": 2, "b": 3})
    best.finish_epoch(4, {"a": row(0.5), "b": row(0.6)})
    assert state(tmp_path) == ("b", {"a": 2, "b": 3}), "as good is not better"
    best.finish_epoch(5, {"a": row(0.5, nll=0.9), "b": row(0.6, nll=1.1)})
    assert state(tmp_path) == ("b", {"a": 5, "b": 3}), "of two as good the lower NLL is better"
    best.finish_epoch(6, None)
    for kind in ("best", "last"):
        for name in "ab":
            assert folder.digests()[f"{kind}/{name}"] == [folder.digest(kind, name)]
            assert folder.verified_weights(kind, name).is_file()
    card = read_card(tmp_path / "best" / "a.safetensors")
    assert (card.model, card.num_classes, card.in_channels, card.image_size) == ("small_cnn", 4, 1, (8, 8))
    assert len(card.mean) == len(card.std) == 1
    assert not card.multi_label


def test_a_metric_that_is_not_finite_is_the_worst(make, tmp_path):
    best = make()
    best.finish_epoch(1, {"a": row(math.nan), "b": row(0.1, nll=math.inf)})
    best.finish_epoch(2, {"a": row(0.0), "b": row(0.1, nll=9.0)})
    assert state(tmp_path) == ("b", {"a": 2, "b": 2})
    best.finish_epoch(3, {"a": row(0.9, nll=math.nan), "b": row(math.inf)})
    assert state(tmp_path) == ("b", {"a": 2, "b": 2})


def test_the_recipe_may_say_the_metric(make, tmp_path):
    best = make(best_metric="nll")
    best.finish_epoch(1, {"a": row(0.9, nll=2.0), "b": row(0.1, nll=1.0)})
    best.finish_epoch(2, {"a": row(1.0, nll=3.0), "b": row(0.0, nll=0.5)})
    assert state(tmp_path) == ("b", {"a": 1, "b": 2})
    assert RunFolder(tmp_path).read_best().metric == "nll"


def test_of_several_labels_the_mean_average_precision_counts(make, tmp_path):
    plain = make()
    data = plain._recipe.data.model_copy(update={"multi_label": True})
    train = plain._recipe.train.model_copy(update={"best_metric": None})
    recipe = plain._recipe.model_copy(update={"data": data, "train": train}).resolved()
    best = BestWeights(recipe, RunFolder(tmp_path), plain._group, plain._cards, plain._collector)
    best.finish_epoch(1, {"a": {"map": 0.2, "nll": 1.0}, "b": {"map": 0.3, "nll": 2.0}})
    assert (state(tmp_path)[0], RunFolder(tmp_path).read_best().metric) == ("b", "map")


def test_another_rank_than_the_main_one_writes_nothing(make, tmp_path):
    best = make()
    best._collector = OtherRank(Communicator(1, 1, torch.device("cpu")), best._group.placement)
    best.finish_epoch(1, {"a": row(0.5), "b": row(0.4)})
    assert not list(tmp_path.rglob("*.*"))


def test_a_file_that_is_replaced_has_two_digests_meanwhile(make, tmp_path, monkeypatch):
    """Whenever the process is killed, each file is one that best.json knows."""
    best, folder = make(), RunFolder(tmp_path)
    best.finish_epoch(1, {"a": row(0.5), "b": row(0.5)})
    before = folder.digest("best", "a")
    seen = []

    def write_file(path, content):
        seen.append(path.name)
        assert folder.verified_weights("best", "b")
        assert before in folder.digests()["best/a"]
        assert len(folder.digests()[f"{path.parent.name}/{path.stem}"]) == 1 + (path.stem == "a")
        path.write_bytes(content)

    monkeypatch.setattr("mutual.engine.training.best_weights.write_file", write_file)
    for parameter in best._group.peers["a"].model.parameters():
        parameter.data += 1
    best.finish_epoch(2, {"a": row(0.6), "b": row(0.5)})
    assert seen == ["a.safetensors", "a.safetensors", "b.safetensors"]
    assert folder.digests()["best/a"] == [folder.digest("best", "a")]
    assert folder.digest("best", "a") != before


def test_what_a_checkpoint_says_is_taken_over(make, tmp_path):
    best, folder = make(), RunFolder(tmp_path)
    best.finish_epoch(1, {"a": row(0.5), "b": row(0.4)})
    saved = best.state_dict()
    again = make()
    again.load_state_dict(saved)
    again.check_files()
    assert (again.best_peer, again.state_dict()) == ("a", saved)
    again.finish_epoch(2, {"a": row(0.4), "b": row(0.3)})
    assert state(tmp_path) == ("a", {"a": 1, "b": 1})
    assert folder.verified_weights("best", "a").is_file()


def test_better_weights_than_the_checkpoints_are_taken_over_with_their_scores(make, tmp_path):
    best = make()
    best.finish_epoch(1, {"a": row(0.5), "b": row(0.4)})
    saved = {key: dict(value) for key, value in best.state_dict().items()}
    for peer in best._group.peers.values():
        for parameter in peer.model.parameters():
            parameter.data += 1
    best.finish_epoch(2, {"a": row(0.6), "b": {**row(0.9), "ece": None}})
    again = make()
    again.load_state_dict(saved)
    again.check_files()
    assert again.best_peer == "b"
    assert again.state_dict()["sha256"]["best/b"] == RunFolder(tmp_path).digest("best", "b")
    scores = again.state_dict()["peers"]["b"]
    assert (scores["epoch"], scores["top1"]) == (2, 0.9)
    assert math.isnan(scores["ece"]), "null in JSON"
    assert again.state_dict()["peers"]["a"] == {"epoch": 2, **row(0.6)}


def test_other_ranks_than_the_main_one_look_at_no_files(make, tmp_path, recwarn):
    best = make()
    best.finish_epoch(1, {"a": row(0.5), "b": row(0.4)})
    (tmp_path / "best" / "a.safetensors").unlink()
    again = make()
    again.load_state_dict(best.state_dict())
    again._collector = OtherRank(Communicator(1, 1, torch.device("cpu")), again._group.placement)
    again.check_files()
    assert again.best_peer == "a"
    assert not recwarn.list


@pytest.mark.parametrize("damage", ["missing file", "other bytes", "no best.json", "no scores"])
def test_what_is_lost_is_searched_anew_with_a_warning(make, tmp_path, damage):
    best, folder = make(), RunFolder(tmp_path)
    best.finish_epoch(1, {"a": row(0.5), "b": row(0.4)})
    saved = best.state_dict()
    path = tmp_path / "best" / "a.safetensors"
    path.unlink() if damage == "missing file" else path.write_bytes(b"other")
    if damage == "no best.json":
        (tmp_path / "best" / "best.json").unlink()
    if damage == "no scores":
        known = folder.read_best()
        digests = {**known.sha256, "best/a": [folder.digest("best", "a")]}
        folder.write_best(known.model_copy(update={"sha256": digests, "peers": {"a": {"epoch": 3}, "b": known.peers["b"]}}))
    again = make()
    again.load_state_dict(saved)
    with pytest.warns(UserWarning, match=r"best/a.safetensors is missing or damaged; the best of peer 'a' is determined again") as caught:
        again.check_files()
    assert len(caught) == 1
    assert again.state_dict()["peers"].keys() == {"b"}
    assert "best/a" not in again.state_dict()["sha256"]
    again.finish_epoch(2, {"a": row(0.1), "b": row(0.1)})
    assert state(tmp_path) == ("b", {"a": 2, "b": 1})


def test_a_peer_without_best_weights_is_not_reported(make, recwarn):
    best = make()
    best.finish_epoch(1, None)
    again = make()
    again.load_state_dict(best.state_dict())
    again.check_files()
    assert not recwarn.list
