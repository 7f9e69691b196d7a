"""Scores against their definitions: NLL, accuracies, calibration, the ensemble, and the peers' agreement."""

import copy
import itertools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from support import WORLD, build, tiny_document

from mutual.data import Batch
from mutual.engine.evaluation.evaluator import Evaluator
from mutual.engine.storage.run_folder import RunFolder
from mutual.engine.training.best_weights import BestWeights
from mutual.engine.training.peer_card import peer_card
from mutual.engine.training.peer_collector import PeerCollector
from mutual.recipe import InputError

CPU = torch.device("cpu")


def scored(num_classes=10, peers=("a", "b"), ensemble=("a", "b"), shift=1.0, broken=slice(0)):
    """Random logits of each peer for the 12 images of three batches, and what the evaluator makes of them."""
    document = tiny_document()
    document["data"] |= {"num_classes": num_classes, "eval_batch_size": 5}
    _, data, _, _ = build(document)
    labels = torch.cat([batch.labels for batch in data.eval_batches(world_size=1, shard=(0, 1))])
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(12, num_classes, generator=generator)
    logits = {name: base + shift * torch.randn(12, num_classes, generator=generator) for name in peers}
    logits["a"][broken] = math.nan
    served = iter(range(0, 12, 5))

    def predict(images, batch):
        begin = next(served)
        return {name: value[begin : begin + len(images)] for name, value in logits.items()}

    evaluator = Evaluator(peers, ensemble, num_classes=num_classes, device=CPU)
    scores = evaluator(predict, data.eval_batches(world_size=1, shard=(0, 1)))
    return scores, logits, labels


def test_each_peer_is_scored_by_definition():
    scores, logits, labels = scored()
    for name, value in logits.items():
        top5 = (value.topk(5).indices == labels[:, None]).any(dim=1)
        assert scores[name]["top1"] == pytest.approx((value.argmax(1) == labels).float().mean().item())
        assert scores[name]["top5"] == pytest.approx(top5.float().mean().item())
        assert scores[name]["nll"] == pytest.approx(F.cross_entropy(value, labels).item(), rel=1e-5)


def test_calibration_is_the_gap_of_confidence_and_accuracy_in_15_bins():
    scores, logits, labels = scored()
    confidence, predicted = F.softmax(logits["a"], dim=1).max(dim=1)
    right = (predicted == labels).float()
    bins = (confidence * 15).ceil().clamp(1, 15)
    gaps = [
        (right[bins == index].mean() - confidence[bins == index].mean()).abs() * (bins == index).float().mean() for index in bins.unique()
    ]
    assert scores["a"]["ece"] == pytest.approx(sum(gaps).item(), rel=1e-4)


def test_the_ensemble_is_the_mean_of_the_probabilities():
    scores, logits, labels = scored()
    mean = torch.stack([F.softmax(value, dim=1) for value in logits.values()]).mean(dim=0)
    assert scores["ensemble"]["nll"] == pytest.approx(F.nll_loss(mean.log(), labels).item(), rel=1e-5)
    assert scores["ensemble"]["top1"] == pytest.approx((mean.argmax(1) == labels).float().mean().item())


def test_top5_only_where_there_are_more_than_five_classes():
    assert "top5" not in scored(num_classes=5)[0]["a"]
    assert "top5" in scored(num_classes=6)[0]["a"]


def test_agreement_and_divergence_of_the_peers():
    scores, logits, _ = scored()
    a, b = (F.log_softmax(value, dim=1) for value in logits.values())
    kl = ((a.exp() * (a - b)).sum(1) + (b.exp() * (b - a)).sum(1)).mean() / 2
    assert scores["pairs"]["kl"] == pytest.approx(kl.item(), rel=1e-4)
    assert scores["pairs"]["agreement"] == pytest.approx((a.argmax(1) == b.argmax(1)).float().mean().item())


def test_copies_diverge_by_nothing():
    scores, _, _ = scored(shift=0.0)
    assert scores["pairs"]["agreement"] == 1
    assert abs(scores["pairs"]["kl"]) < 1e-6


def test_one_peer_has_no_ensemble_and_no_pairs():
    scores, _, _ = scored(peers=("a",), ensemble=("a",))
    assert set(scores) == {"a"}


def test_a_peer_that_does_not_answer_every_image_has_no_scores():
    """Images whose NLL is not a number are not left out of its mean: that made a broken peer the surest."""
    scores, _, _ = scored(broken=slice(2, 12))
    assert all(math.isnan(value) for value in scores["a"].values())
    assert all(math.isnan(value) for value in scores["ensemble"].values())
    assert math.isnan(scores["pairs"]["kl"])
    assert scores["b"] == scored()[0]["b"]


def best_weights(folder, metric=None):
    recipe, data, group, _ = build(tiny_document(train={"epochs": 2, "progress": False, "best_metric": metric}))
    cards = {name: peer_card(recipe, name, data, group.inputs[name]) for name in group.peers}
    return BestWeights(recipe.resolved(), folder, group, cards, PeerCollector(WORLD, group.placement))


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_the_best_peer_is_the_most_accurate_and_among_equals_the_surest(folder):
    rows = [({"top1": 0.9, "nll": 0.5}, {"top1": 0.9, "nll": 0.4}), ({"top1": 0.8, "nll": 0.1}, {"top1": 0.9, "nll": 0.45})]
    for metric, best_peer, best_epochs in ((None, "b", (1, 1)), ("nll", "a", (2, 1))):
        best = best_weights(folder, metric)
        for epoch, (a, b) in enumerate(rows, start=1):
            best.finish_epoch(epoch, {"a": a, "b": b})
        found = folder.read_best()
        assert (found.peer, found.metric) == (best_peer, metric or "top1")
        assert found.peers == {
            name: {"epoch": epoch, **rows[epoch - 1]["ab".index(name)]} for name, epoch in zip("ab", best_epochs, strict=True)
        }


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("metric", ["top1", "nll"])
def test_what_is_not_finite_is_worse_than_anything(folder, broken, metric):
    best = best_weights(folder, metric)
    good = {"top1": 0.1, "nll": 9.0}
    best.finish_epoch(1, {"a": {"top1": 0.9, "nll": broken}, "b": {"top1": math.nan, "nll": math.nan}})
    best.finish_epoch(2, {"a": {"top1": 0.9, "nll": broken}, "b": good})
    assert folder.read_best().peer == "b"
    assert folder.read_best().peers["b"] == {"epoch": 2, **good}
    text = (folder.path / "best" / "best.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_every_weights_file_has_its_digest_in_best_json(folder):
    best = best_weights(folder)
    best.finish_epoch(1, None)
    with pytest.raises(InputError, match="no epoch has been evaluated"):
        folder.best_peer()
    best.finish_epoch(2, {"a": {"top1": 0.9, "nll": 0.5}, "b": {"top1": 0.8, "nll": 0.5}})
    for kind, peer in itertools.product(("last", "best"), "ab"):
        path = folder.verified_weights(kind, peer)
        content = path.read_bytes()
        path.write_bytes(bytes([*content[:-1], content[-1] ^ 1]))
        with pytest.raises(InputError, match=f"{peer}.safetensors is damaged: its checksum is not the one in best.json"):
            folder.verified_weights(kind, peer)
        path.unlink()
        with pytest.raises(InputError, match=f"{peer}.safetensors is missing"):
            folder.verified_weights(kind, peer)


def test_weights_files_hold_at_every_moment_of_a_write(folder, monkeypatch):
    """Killed between two files of an epoch, each is the old or the new one, and best.json knows both."""
    best_weights(folder).finish_epoch(1, {"a": {"top1": 0.5, "nll": 0.5}, "b": {"top1": 0.5, "nll": 0.5}})
    files = [("last", "a"), ("best", "a"), ("last", "b"), ("best", "b"), None, None]
    for writes in range(len(files)):
        again = best_weights(folder)
        for peer in again._group.peers.values():
            with torch.no_grad():
                peer.model.head.bias.add_(writes + 1)
        left = iter(range(writes))
        monkeypatch.setattr(
            "mutual.engine.storage.files._write_synced",
            lambda path, content, left=left: (
                path.write_bytes(content) if next(left, None) is not None else (_ for _ in ()).throw(KeyboardInterrupt)
            ),
        )
        with pytest.raises(KeyboardInterrupt):
            again.finish_epoch(2, {"a": {"top1": 0.6, "nll": 0.5}, "b": {"top1": 0.6, "nll": 0.5}})
        monkeypatch.undo()
        for kind, peer in itertools.product(("last", "best"), "ab"):
            folder.verified_weights(kind, peer)


def test_a_best_file_that_was_lost_is_reported_when_the_run_is_resumed(folder):
    best = best_weights(folder)
    best.finish_epoch(1, {"a": {"top1": 0.9, "nll": 0.5}, "b": {"top1": 0.8, "nll": 0.5}})
    again = best_weights(folder)
    again.load_state_dict(best.state_dict())
    folder.weights("best", "a").unlink()
    with pytest.warns(UserWarning, match=r"a.safetensors is missing.*the best of peer 'a' is determined again"):
        again.check_files()
    assert again.best_peer == "b"
    again.finish_epoch(2, {"a": {"top1": 0.7, "nll": 0.5}, "b": {"top1": 0.1, "nll": 0.5}})
    assert folder.read_best().peers["a"]["epoch"] == 2
    folder.verified_weights("best", "a")


def test_best_weights_of_an_epoch_after_the_checkpoint_are_taken_over(folder):
    """The run was cut after an epoch whose weights are better than those of the checkpoint; they stay, with the scores that are theirs."""
    best = best_weights(folder)
    best.finish_epoch(1, {"a": {"top1": 0.5, "nll": 0.5}, "b": {"top1": 0.6, "nll": 0.5}})
    checkpoint = copy.deepcopy(best.state_dict())
    for peer in best._group.peers.values():
        with torch.no_grad():
            peer.model.head.bias.add_(1)
    best.finish_epoch(2, {"a": {"top1": 0.9, "nll": 0.5}, "b": {"top1": 0.1, "nll": 0.5}})
    expected = folder.read_best().peers
    again = best_weights(folder)
    again.load_state_dict(checkpoint)
    again.check_files()
    again.finish_epoch(2, None)  # nothing is evaluated, and yet what best.json says of the file must hold
    assert folder.read_best().peers == expected
    assert again.best_peer == "a"
    for peer in "ab":
        folder.verified_weights("best", peer)
    first = best_weights(folder)  # the checkpoint is of a time before any evaluation
    first.check_files()
    assert first.state_dict()["peers"] == expected


def test_weights_that_a_training_replaces_meanwhile_are_not_called_damaged(folder, monkeypatch):
    best = best_weights(folder)
    best.finish_epoch(1, {"a": {"top1": 0.5, "nll": 0.5}, "b": {"top1": 0.5, "nll": 0.5}})
    read = RunFolder.digest

    def late(self, kind, peer):
        digest = read(self, kind, peer)
        monkeypatch.undo()
        with torch.no_grad():
            best._group.peers["a"].model.head.bias.add_(1)
        best.finish_epoch(2, {"a": {"top1": 0.9, "nll": 0.5}, "b": {"top1": 0.1, "nll": 0.5}})
        return digest

    monkeypatch.setattr(RunFolder, "digest", late)
    assert folder.verified_weights("best", "a") == folder.weights("best", "a")


def test_of_a_peer_of_five_classes_whose_outputs_are_not_numbers_no_score_is_one():
    evaluator = Evaluator(["a"], [], num_classes=8, device=CPU, known_classes={"a": (1, 3, 4)})
    batch = Batch(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([1, 4]), 2, 2)
    finite = evaluator(lambda pixels, _: {"a": torch.zeros(2, 3)}, [batch])["a"]
    assert (finite["top1"], finite["top5"]) == (0.5, 1.0)
    row = evaluator(lambda pixels, _: {"a": torch.full((2, 3), math.nan)}, [batch])["a"]
    assert all(math.isnan(value) for value in row.values())
