"""Scores against their definitions: NLL, accuracies, calibration, the ensemble, and the peers' agreement."""

import pytest
import torch
import torch.nn.functional as F
from support import WORLD, build, tiny_document

from mutual.engine.courier import Courier
from mutual.engine.evaluation import Evaluator
from mutual.engine.folder import RunFolder
from mutual.engine.weights import BestWeights

CPU = torch.device("cpu")


def scored(num_classes=10, peers=("a", "b"), ensemble=("a", "b"), shift=1.0):
    """Random logits of each peer for the 12 images of three batches, and what the evaluator makes of them."""
    document = tiny_document()
    document["data"] |= {"num_classes": num_classes, "eval_batch_size": 5}
    _, data, _, _ = build(document)
    labels = torch.cat([batch.labels for batch in data.eval_batches(world_size=1, rank=0)])
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(12, num_classes, generator=generator)
    logits = {name: base + shift * torch.randn(12, num_classes, generator=generator) for name in peers}
    served = iter(range(0, 12, 5))

    def predict(images, batch):
        begin = next(served)
        return {name: value[begin : begin + len(images)] for name, value in logits.items()}

    evaluator = Evaluator(peers, ensemble, num_classes=num_classes, device=CPU)
    scores = evaluator(predict, data.eval_batches(world_size=1, rank=0), data.info, prepare=lambda images: images)
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


def test_the_best_peer_is_the_most_accurate_and_among_equals_the_surest(tmp_path):
    recipe, data, group, _ = build(tiny_document())
    folder = RunFolder(tmp_path)
    best = BestWeights(recipe, folder, group, data.info, Courier(WORLD, group.placement))
    rows = [({"top1": 0.9, "nll": 0.5}, {"top1": 0.9, "nll": 0.4}), ({"top1": 0.8, "nll": 0.1}, {"top1": 0.9, "nll": 0.45})]
    for epoch, (a, b) in enumerate(rows, start=1):
        best.update({"a": a, "b": b}, epoch)
    assert folder.read_best() == {
        "peer": "b",
        "metric": "top1",
        "peers": {"a": {"epoch": 1, **rows[0][0]}, "b": {"epoch": 1, **rows[0][1]}},
    }
    by_nll = BestWeights(
        recipe.model_copy(update={"train": recipe.train.model_copy(update={"best_metric": "nll"})}),
        folder,
        group,
        data.info,
        Courier(WORLD, group.placement),
    )
    for epoch, (a, b) in enumerate(rows, start=1):
        by_nll.update({"a": a, "b": b}, epoch)
    assert folder.read_best()["peer"] == "a"
