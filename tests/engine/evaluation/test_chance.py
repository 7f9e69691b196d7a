"""Chance against its definition, and when it explains a score."""

import pytest
import torch
from support import WORLD

from mutual.data.loading.batch import BadImage, Batch
from mutual.engine.evaluation import Chance, ChanceMeter, Evaluator
from mutual.engine.evaluation.scored_batch import ScoredBatch


def scored(logits, labels):
    batch = Batch(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, len(labels), len(labels))
    return ScoredBatch(batch, logits, labels, {})


def levels(predictions, labels, *, num_classes=3):
    """Chance of one peer, added in two batches."""
    meter = ChanceMeter(["a"], WORLD, num_classes=num_classes, multi_label=False)
    logits = torch.nn.functional.one_hot(torch.tensor(predictions), num_classes).float()
    for rows in (slice(0, 2), slice(2, None)):
        meter.add(scored({"a": torch.cat([logits[rows], logits[:1]])}, torch.tensor(labels[rows])))  # the last row is padding
    return meter.levels()["a"]


def test_predictions_without_regard_to_the_image_are_right_as_often_as_both_frequencies_say():
    assert levels([0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 2, 2]) == Chance(pytest.approx(1 / 3), num_images=6)
    assert levels([0, 0, 0, 1], [0, 0, 1, 2]).level == pytest.approx(0.75 * 0.5 + 0.25 * 0.25)


def test_who_always_predicts_one_class_is_right_as_often_as_it_comes():
    chance = levels([1] * 2000, [1] * 1400 + [0] * 600)
    assert chance.level == pytest.approx(0.7)
    assert chance.explains(0.7)
    assert not chance.explains(0.9)


def test_the_chance_of_several_labels_is_their_mean_frequency():
    meter = ChanceMeter(["a", "b"], WORLD, num_classes=3, multi_label=True)
    meter.add(scored({}, torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])))
    assert meter.levels() == dict.fromkeys("ab", Chance(pytest.approx((3 / 4 + 1 / 4) / 2), num_images=4)), "a class of no image has none"


def test_a_peer_of_some_classes_is_told_over_their_images():
    """A random one that knows 10 of 100 classes is right once in ten of the images by which it is scored."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10_000) % 100
    logits = {"some": torch.randn(10_000, 10, generator=generator), "all": torch.randn(10_000, 100, generator=generator)}
    meter = ChanceMeter(list(logits), WORLD, num_classes=100, multi_label=False, known_classes={"some": range(5, 100, 10)})
    for rows in torch.arange(10_000).chunk(3):
        meter.add(scored({name: each[rows] for name, each in logits.items()}, labels[rows]))
    levels = meter.levels()
    assert levels == {"some": Chance(pytest.approx(0.1), 1000), "all": Chance(pytest.approx(0.01), 10_000)}
    assert levels["some"].explains(0.103)


def test_the_chance_of_several_labels_is_that_of_those_that_a_peer_knows():
    flags = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    meter = ChanceMeter(["a", "b"], WORLD, num_classes=4, multi_label=True, known_classes={"b": (1, 2)})
    meter.add(scored({}, flags))
    assert meter.levels() == {"a": Chance(pytest.approx((3 / 4 + 1 / 4 + 1 / 4) / 3), 4), "b": Chance(pytest.approx(1 / 4), 4)}


def test_images_that_cannot_be_read_are_no_chance():
    meter = ChanceMeter(["a"], WORLD, num_classes=3, multi_label=False)
    batch = Batch(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 1, 2]), 4, 4, bad=(BadImage("x", "gone", 3),))
    evaluator = Evaluator(["a"], [], num_classes=3, device=torch.device("cpu"))
    logits = torch.tensor([[9.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]])
    evaluator(lambda pixels, _: {"a": logits}, [batch], observers=[meter])
    assert meter.levels() == {"a": Chance(pytest.approx((2 * 1 + 1 * 2) / 9), num_images=3)}


def test_nothing_seen_is_no_chance():
    meter = ChanceMeter(["a"], WORLD, num_classes=3, multi_label=True)
    assert meter.levels() == {"a": Chance(0.0, num_images=0)}


@pytest.mark.parametrize(
    ("level", "num_images", "score", "is_explained"),
    [
        (0.1, 100, 0.18, True),  # within 3 standard errors of 0.03
        (0.1, 100, 0.20, False),
        (0.001, 50_000, 0.05, True),  # within 5 % of the way
        (0.001, 50_000, 0.06, False),
        (0.1, 10, 0.1, False),  # too few images to tell
        (0.0, 4, 0.0, False),
        (0.0, 1, 0.0, False),
        (0.0, 0, 0.0, False),
        (0.0, 20, 0.0, True),
        (0.5, 100, 0.5, False),
        (0.5, 200, 0.5, True),
        (0.1, 1000, float("nan"), False),
        (1.0, 1000, 1.0, False),
    ],
)
def test_chance_explains_what_is_near_it_where_the_images_can_tell(level, num_images, score, is_explained):
    assert Chance(level, num_images).explains(score) is is_explained
