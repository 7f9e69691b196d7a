"""The sentences that a report begins with, for figures whose noise is known."""

import math
from dataclasses import replace

import pytest
import torch

from mutual.engine.report.findings import EdgeFinding, MemberFindings
from mutual.engine.report.predictions import SplitPredictions, ensemble_logits
from mutual.engine.report.recommendation import Choice, reason

NUM_IMAGES = 200


def logits_of(num_right, *, first=0, sureness=4.0):
    """Logits of two classes for images of class 0, right on so many, from the image `first` on."""
    logits = torch.zeros(NUM_IMAGES, 2)
    rows = (torch.arange(NUM_IMAGES) - first) % NUM_IMAGES
    logits[:, 1] = sureness
    logits[rows < num_right] = torch.tensor([sureness, 0.0])
    return logits


def predictions_of(logits, **changes):
    labels = torch.zeros(NUM_IMAGES, dtype=torch.int64)
    scores = {
        name: {"top1": float((each.argmax(1) == labels).float().mean()), "nll": float(torch.nn.functional.cross_entropy(each, labels))}
        for name, each in logits.items()
    }
    fields = {"images": None, "num_all": NUM_IMAGES, "positions": [], "per_class": {}, "skipped": {}}
    found = SplitPredictions(split="val", labels=labels, logits=logits, known={}, class_names=("cat", "dog"), scores=scores, **fields)
    return replace(found, **changes)


def sentence(logits, sizes, *, best, metric="top1", edges=(), frozen=(), scores=None, flops=2.0, **changes):
    predictions = predictions_of(logits, **changes)
    fields = {"reliability": None, "temperature": None, "scaled": None, "confusion": [], "confused": [], "per_class": {}}
    members = [
        MemberFindings(name, name in frozen, "net", sizes[name], flops * sizes[name], predictions.scores[name], **fields) for name in logits
    ]
    trained = {name: row for name, row in predictions.scores.items() if name not in ("ensemble", *frozen)}
    return reason(Choice(best, metric, scores or trained), members, edges, predictions)


def test_of_peers_of_one_size_the_best_is_named_with_all_scores():
    logits = {"a": logits_of(140), "b": logits_of(180), "c": logits_of(150)}
    assert sentence(logits, dict.fromkeys("abc", 1000), best="b") == (
        "b has the highest validation top-1 accuracy of the three (90.0 % against 75.0 % and 70.0 %); all are of the same size."
    )


def test_by_nll_the_lowest_is_best():
    logits = {"a": logits_of(140), "b": logits_of(180)}
    found = sentence(logits, dict.fromkeys("ab", 1000), best="b", metric="nll")
    assert found == "b has the lowest validation NLL of the two (0.418 against 1.218); both are of the same size."


def test_a_smaller_peer_within_the_noise_may_be_shipped():
    """One alone is right on 4 images, the other on 2: p = 2 (1 + 6 + 15) / 2^6."""
    logits = {"a": logits_of(180), "b": logits_of(178, first=4)}
    found = sentence(logits, {"a": 2_000_000, "b": 500_000}, best="a")
    assert found == (
        "a has the highest validation top-1 accuracy of the two (90.0 % against 89.0 %); with 2 M parameters it is the largest (b: 500 k). "
        "b has 25 % of its parameters, and the difference of 1.0 points of top-1 accuracy is within the noise of these 200 validation "
        "images (McNemar's exact test, p = 0.69): the smaller one may be shipped."
    )


def test_a_smaller_peer_that_is_worse_is_not_offered():
    logits = {"a": logits_of(180), "b": logits_of(160)}
    found = sentence(logits, {"a": 2_000_000, "b": 500_000}, best="a")
    assert "shipped" not in found
    assert "within the noise" not in found


def test_of_equal_size_either_may_be_shipped_within_the_noise():
    logits = {"a": logits_of(180), "b": logits_of(179)}
    found = sentence(logits, dict.fromkeys("ab", 1000), best="a")
    assert found.endswith(
        "Its difference from b (0.5 points of top-1 accuracy) is within the noise of these 200 validation images (McNemar's exact test, "
        "p = 1): either may be shipped."
    )


def test_too_few_images_do_not_make_peers_alike():
    """They are right on other images: the difference of 0 has a standard error of more than 4 points."""
    logits = {"a": logits_of(160), "b": logits_of(158, first=40)}
    found = sentence(logits, dict.fromkeys("ab", 1000), best="a")
    assert found.endswith(
        "These 200 validation images are too few to tell it from b: they differ by 1.0 points of top-1 accuracy, with a standard error of "
        "4.4 points (McNemar's exact test, p = 0.91)."
    )


def test_equal_scores_are_told_by_their_nll():
    logits = {"a": logits_of(180, sureness=6.0), "b": logits_of(180)}
    found = sentence(logits, dict.fromkeys("ab", 1000), best="b")
    assert found.startswith("b has the same validation top-1 accuracy as a (90.0 %), a lower NLL; both are of the same size.")
    assert found.endswith(
        "a has the same top-1 accuracy on these 200 validation images (McNemar's exact test, p = 1): either may be shipped."
    )


def test_scores_that_differ_little_are_told_apart_by_their_digits():
    logits = {"a": logits_of(180), "b": logits_of(100)}
    found = sentence(logits, dict.fromkeys("ab", 1000), best="a", scores={"a": {"top1": 0.98734}, "b": {"top1": 0.98701}})
    assert "(98.73 % against 98.70 %)" in found


def test_an_ensemble_that_is_surely_better_is_named_with_its_cost():
    logits = {"a": logits_of(160, sureness=2.0), "b": logits_of(160, first=40, sureness=2.0)}
    logits["b"][:40], logits["a"][-40:] = torch.tensor([-1.0, 0.0]), torch.tensor([-1.0, 0.0])
    logits["ensemble"] = ensemble_logits(list(logits.values()), multi_label=False)
    found = sentence(logits, {"a": 1000, "b": 1000, "ensemble": 2000}, best="a")
    assert found.endswith(
        "The ensemble of the two has a higher top-1 accuracy on these 200 validation images (100.0 % against 80.0 %; McNemar's exact test, "
        "p < 0.001), at 2.0 times the FLOPs and 2.0 times the parameters of a."
    )
    assert "2.0 times the parameters of a." in sentence(logits, {"a": 1000, "b": 1000, "ensemble": 2000}, best="a", flops=0.0)


def test_an_ensemble_that_is_no_better_is_not_named():
    logits = {"a": logits_of(180), "b": logits_of(170), "ensemble": logits_of(181)}
    assert "ensemble" not in sentence(logits, {"a": 1000, "b": 1000, "ensemble": 2000}, best="a")


def test_one_peer_and_its_teacher():
    logits = {"t": logits_of(190), "s": logits_of(180)}
    found = sentence(logits, {"t": 11_200_000, "s": 1_000}, best="s", frozen=["t"], edges=[EdgeFinding("s", "t", "kd", "logits", 1.0)])
    assert found == (
        "s is the one peer that was trained; its validation top-1 accuracy is 90.0 %. "
        "The frozen peer that taught it: t has 95.0 % with 11.2 M parameters; on these 200 validation images s has 90.0 % with 1 k."
    )


@pytest.mark.parametrize("metric", ["top1", "nll"])
def test_a_training_that_diverged_is_not_praised(metric):
    logits = dict.fromkeys("ab", logits_of(100))
    scores = {name: {"top1": math.nan, "nll": None} for name in "ab"}
    assert "diverged" in sentence(logits, dict.fromkeys("ab", 1000), best="a", metric=metric, scores=scores)
