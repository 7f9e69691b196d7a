"""Agreement and KL of pairs in closed form, which way round they are, and which images stand out."""

import math

import pytest
import torch

from mutual.engine.report.images import find_disagreements, find_mistakes, jensen_shannon
from mutual.engine.report.members import find_members
from mutual.engine.report.pairs import compare
from mutual.engine.report.predictions import SplitPredictions, ensemble_logits
from mutual.recipe import parse_recipe


class Images:
    """Stands for loaded images, each grey as its position."""

    def pixels(self, position):
        return torch.full((1, 4, 4), position, dtype=torch.uint8)

    def name(self, position):
        return f"photos/val/cat/{position}.png"


def predictions_of(logits, labels, *, known=None, num_classes=3):
    return SplitPredictions(
        split="val",
        images=Images(),
        num_all=len(labels),
        positions=[10 + row for row in range(len(labels))],
        labels=torch.tensor(labels),
        logits=logits,
        known=known or {},
        class_names=("x", "y", "z")[:num_classes],
        scores={name: {"nll": 0.0} for name in logits},
        per_class={name: [] for name in logits},
        skipped={},
    )


def of(*rows):
    """Logits of these probabilities."""
    return torch.tensor(rows).log()


def test_kl_is_of_the_second_from_the_first():
    a, b = of([0.5, 0.25, 0.25], [0.8, 0.1, 0.1]), of([0.25, 0.5, 0.25], [0.8, 0.1, 0.1])
    agreement, kl, reverse = compare(predictions_of({"a": a, "b": b}, [0, 0]), "a", "b")
    assert agreement == 0.5
    expected = 0.25 * math.log(0.25 / 0.5) + 0.5 * math.log(0.5 / 0.25)
    assert kl == reverse == pytest.approx(expected / 2)
    skewed = of([0.6, 0.2, 0.2])
    uniform = of([1 / 3, 1 / 3, 1 / 3])
    _, kl, reverse = compare(predictions_of({"a": skewed, "b": uniform}, [0]), "a", "b")
    assert kl == pytest.approx(sum(1 / 3 * math.log(1 / 3 / p) for p in (0.6, 0.2, 0.2)), rel=1e-5)
    assert reverse == pytest.approx(sum(p * math.log(p * 3) for p in (0.6, 0.2, 0.2)), rel=1e-5)


def test_peers_that_know_a_part_are_compared_on_what_both_know():
    """`b` knows z and x, in this order; of a's probabilities these are 0.6 and 0.2, of the others 3/4 and 1/4."""
    a, b = of([0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.7, 0.1, 0.2]), of([0.75, 0.25], [0.5, 0.5], [0.9, 0.1])
    predictions = predictions_of({"a": a, "b": b}, [2, 1, 0], known={"b": (2, 0)})
    agreement, _, _ = compare(predictions, "a", "b")
    assert agreement == 0.5, "the image of y is not compared"
    _, kl, _ = compare(predictions_of({"a": a[:1], "b": b[:1]}, [2], known={"b": (2, 0)}), "a", "b")
    assert kl == pytest.approx(0, abs=1e-6)
    assert all(math.isnan(value) for value in compare(predictions_of({"a": a[1:2], "b": b[1:2]}, [1], known={"b": (2, 0)}), "a", "b"))


def test_the_images_on_which_peers_disagree_most_come_first_and_equal_ones_not_at_all():
    a = of([0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [0.98, 0.01, 0.01])
    b = of([0.9, 0.05, 0.05], [0.3, 0.6, 0.1], [0.01, 0.98, 0.01])
    found = find_disagreements(predictions_of({"a": a, "b": b}, [0, 0, 2]), ["a", "b"])
    assert [image.index for image in found] == ["cat/12.png", "cat/11.png"]
    assert found[0].label == "z"
    assert found[0].predictions == {"a": ("x", pytest.approx(0.98)), "b": ("y", pytest.approx(0.98))}
    assert find_disagreements(predictions_of({"a": a, "b": b}, [0, 0, 2]), ["a"]) == []
    assert float(jensen_shannon(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]]))) == pytest.approx(
        -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    )


def test_the_surest_mistakes_come_first_and_what_is_right_is_none():
    a = of([0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [math.nan] * 3)
    found = find_mistakes(predictions_of({"a": a}, [1, 2, 0, 1]), "a")
    assert [image.index for image in found] == ["cat/11.png", "cat/10.png"]


def test_an_ensembles_logits_are_of_the_mean_probabilities():
    a, b = of([0.9, 0.1], [0.2, 0.8]), of([0.5, 0.5], [0.4, 0.6])
    assert torch.allclose(ensemble_logits([a, b], multi_label=False).softmax(1), torch.tensor([[0.7, 0.3], [0.3, 0.7]]))
    flags = [torch.logit(torch.tensor([[0.9, 0.2]])), torch.logit(torch.tensor([[0.5, 0.4]]))]
    assert torch.allclose(ensemble_logits(flags, multi_label=True).sigmoid(), torch.tensor([[0.7, 0.3]]))


def test_temperatures_are_those_of_the_validation_images_and_nothing_is_said_of_logits_that_are_not_finite():
    """Of logits (log 3, 0), right on three of four, the temperature is 1; of twice these it is 2."""
    peers = {"a": {"model": "small_cnn"}, "b": {"model": "small_cnn"}}
    recipe = parse_recipe({"name": "r", "peers": peers, "objectives": [{"loss": "cross_entropy"}]})
    logits = torch.tensor([[2 * math.log(3.0), 0.0]] * 4)
    broken = torch.full((4, 2), math.nan)
    validation = predictions_of({"a": logits, "b": broken}, [0, 0, 0, 1], num_classes=2)
    test = predictions_of({"a": logits / 2, "b": broken}, [0, 0, 0, 1], num_classes=2)

    class Inference:
        peers = {name: type("Peer", (), {"bare": torch.nn.Linear(2, 2)}) for name in ("a", "b")}  # noqa: RUF012

    a, b = find_members(recipe, Inference, test, validation, [], {"a": 2.0})
    assert a.temperature == pytest.approx(2, rel=1e-4)
    assert a.reliability.ece == pytest.approx(0, abs=1e-6)
    assert a.scaled.ece == pytest.approx(0.75 - math.sqrt(3) / (1 + math.sqrt(3)), abs=1e-4)
    assert (b.temperature, b.reliability, b.scaled, b.flops) == (None, None, None, None)
    assert a.confusion == [[3, 0], [1, 0]]
    assert a.confused == [("y", "x", 1)]
    assert a.num_parameters == 6
