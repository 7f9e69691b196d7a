"""The metrics against those of torchmetrics whose updates they replace, and what the host waits for in an evaluation."""

import doctest
import math

import pytest
import torch
import torchmetrics
from support import WORLD
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MultilabelAveragePrecision

import mutual.engine.evaluation.class_scores
from mutual.data import Batch
from mutual.engine.costs.op_counts import count_ops
from mutual.engine.evaluation import ChanceMeter, Evaluator, class_table
from mutual.engine.evaluation.class_scores import class_scores
from mutual.engine.evaluation.metrics import Accuracy, AveragePrecision, CalibrationError, ClassCounts, MacroAccuracy, Mean
from mutual.engine.evaluation.readable import readable_rows
from mutual.engine.evaluation.scored_batch import ScoredBatch

NUM_CLASSES = 7


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    for size in (5, 8, 1):
        logits, labels = torch.randn(size, NUM_CLASSES, generator=generator), torch.randint(0, NUM_CLASSES, (size,), generator=generator)
        yield logits.softmax(dim=1), labels


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Accuracy(), MulticlassAccuracy(NUM_CLASSES, average="micro")),
        (Accuracy(top_k=5), MulticlassAccuracy(NUM_CLASSES, average="micro", top_k=5)),
        (CalibrationError(NUM_CLASSES, n_bins=15), MulticlassCalibrationError(NUM_CLASSES, n_bins=15)),
    ],
)
def test_a_metric_is_torchmetrics_to_the_bit(ours, theirs):
    for probabilities, labels in batches():
        ours.update(probabilities, labels)
        theirs.update(probabilities, labels)
    assert torch.equal(ours.compute(), theirs.compute())


def test_average_precision_is_torchmetrics_to_the_bit():
    ours, theirs = AveragePrecision(NUM_CLASSES, average="macro"), MultilabelAveragePrecision(NUM_CLASSES, average="macro")
    for probabilities, _ in batches():
        flags = (probabilities.roll(1, 1) > 0.1).long()
        ours.update(probabilities, flags)
        theirs.update(probabilities, flags)
    assert torch.equal(ours.compute(), theirs.compute())


def test_mean_is_torchmetrics_to_the_bit_and_nan_if_a_value_is():
    ours, theirs = Mean(), MeanMetric()
    for probabilities, labels in batches():
        ours.update(probabilities[:, 0], weight=len(labels))
        theirs.update(probabilities[:, 0], weight=len(labels))
    assert torch.equal(ours.compute(), theirs.compute())
    ours.update(torch.tensor([1.0, math.nan]))
    assert ours.compute().isnan()


@pytest.mark.parametrize(
    "make",
    [
        Accuracy,
        lambda: Accuracy(top_k=5),
        lambda: CalibrationError(NUM_CLASSES, n_bins=15),
        lambda: MacroAccuracy(NUM_CLASSES),
        lambda: ClassCounts(NUM_CLASSES),
    ],
)
def test_images_that_are_not_counted_change_nothing(make):
    masked, selected = make(), make()
    for probabilities, labels in batches():
        is_counted = labels < 4
        masked.update(probabilities, labels, is_counted=is_counted)
        if is_counted.any():
            selected.update(probabilities[is_counted], labels[is_counted])
    assert torch.equal(masked.compute(), selected.compute())


def test_a_mean_leaves_out_even_what_is_not_finite():
    mean = Mean()
    mean.update(torch.tensor([1.0, torch.inf, 3.0]), is_counted=torch.tensor([True, False, True]))
    assert mean.compute() == 2


def test_accuracy_of_no_images_is_zero_and_their_mean_nan():
    nothing = torch.zeros(2, dtype=torch.bool)
    accuracy, mean = Accuracy(), Mean()
    accuracy.update(torch.eye(2), torch.tensor([0, 1]), is_counted=nothing)
    mean.update(torch.ones(2), is_counted=nothing)
    assert accuracy.compute() == 0
    assert mean.compute().isnan()


def test_macro_accuracy_is_the_mean_recall_of_the_classes_that_occur():
    """Of 8 classes the last occurs in no label; torchmetrics counts such a class as 0 where it is predicted."""
    metric = MacroAccuracy(NUM_CLASSES + 1)
    probabilities, labels = (torch.cat(each) for each in zip(*batches(), strict=True))
    probabilities = torch.cat([probabilities, torch.zeros(14, 1)], dim=1)
    probabilities[3, 7] = 2.0
    metric.update(probabilities[:9], labels[:9])
    metric.update(probabilities[9:], labels[9:])
    predictions = probabilities.argmax(dim=1)
    recalls = [(predictions[labels == label] == label).float().mean() for label in labels.unique()]
    torch.testing.assert_close(metric.compute(), torch.stack(recalls).mean())
    nothing = MacroAccuracy(2)
    nothing.update(torch.eye(2), torch.tensor([0, 1]), is_counted=torch.zeros(2, dtype=torch.bool))
    assert nothing.compute() == 0


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_of_classes_are_torchmetrics(multi_label):
    probabilities, labels = (torch.cat(each) for each in zip(*batches(), strict=True))
    if multi_label:
        probabilities, labels = (3 * probabilities).clamp(max=1), (probabilities.roll(1, 1) > 0.1).float()
    evaluator = Evaluator("a", [], num_classes=NUM_CLASSES, device=torch.device("cpu"), multi_label=multi_label, counts_classes=True)
    logits = probabilities.logit() if multi_label else probabilities.log()
    batch = Batch(torch.zeros(14, 1, 2, 2, dtype=torch.uint8), labels, 14, 14)
    for _ in range(2):
        scores = evaluator(lambda pixels, batch: {"a": logits}, [batch])
        rows = class_scores("abcdefg", evaluator.class_counts()["a"])
    kind, options = ("multilabel", {"num_labels": 7}) if multi_label else ("multiclass", {"num_classes": 7})
    predicted = probabilities if multi_label else probabilities.argmax(dim=1)
    for name in ("recall", "precision", "f1_score"):
        expected = getattr(torchmetrics.functional.classification, f"{kind}_{name}")(predicted, labels.long(), average=None, **options)
        found = torch.tensor([getattr(row, name.removesuffix("_score")) for row in rows]).nan_to_num(0.0)
        torch.testing.assert_close(found, expected)
    assert [row.support for row in rows] == (labels.sum(dim=0) if multi_label else labels.bincount(minlength=7)).tolist()
    if not multi_label:
        recalls = [row.recall for row in rows if row.support]
        assert scores["a"]["macro_top1"] == pytest.approx(sum(recalls) / len(recalls))
    else:
        assert "macro_top1" not in scores["a"]


def test_a_peer_of_some_classes_is_scored_on_those():
    evaluator = Evaluator(["a"], [], num_classes=8, device=torch.device("cpu"), known_classes={"a": (1, 3, 4)}, counts_classes=True)
    batch = Batch(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([1, 4, 4, 6]), 4, 4)
    scores = evaluator(lambda pixels, _: {"a": torch.eye(4, 3)}, [batch])["a"]  # predicts 1, 3, 4 and 1
    assert scores["macro_top1"] == pytest.approx((1 + 0.5) / 2)
    assert evaluator.class_counts() == {"a": [[1, 0, 2], [1, 1, 1], [1, 0, 1]]}


def test_the_table_of_classes_says_what_cannot_be_divided():
    rows = class_scores(["cat", "a long name of a class", "none"], [[4, 0, 0], [2, 2, 0], [2, 0, 0]])
    lines = class_table({"a": rows, "ensemble": rows}).splitlines()
    assert [line.split()[-4:] for line in lines[1:5]] == [
        ["support", "recall", "precision", "F1"],
        ["4", "50.00%", "100.00%", "66.67%"],
        ["0", "-", "0.00%", "0.00%"],
        ["0", "-", "-", "-"],
    ]
    assert {len(line) for line in lines if line} == {len(lines[1])}
    assert doctest.testmod(mutual.engine.evaluation.class_scores).failed == 0


@pytest.mark.parametrize("bad_rows", [[], [0], [3], [1, 2], [2, 0], [0, 1, 2, 3], [7]])
def test_readable_rows_are_all_but_the_bad_ones(bad_rows):
    assert readable_rows(torch.arange(4), bad_rows).tolist() == [row for row in range(4) if row not in bad_rows]


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_host_waits_for_no_batch_of_an_evaluation(multi_label):
    peers, known = ("a", "b", "c"), {"c": (0, 2, 5)}
    options = {"multi_label": multi_label, "known_classes": known, "counts_classes": True}
    evaluator = Evaluator(peers, peers, num_classes=NUM_CLASSES, device=torch.device("cpu"), **options)
    chance = ChanceMeter(peers, WORLD, num_classes=NUM_CLASSES, multi_label=multi_label, known_classes=known)
    labels = torch.arange(NUM_CLASSES)
    batch = Batch(torch.zeros(7, 1, 4, 4, dtype=torch.uint8), torch.eye(7) if multi_label else labels, 7, 7)
    logits = {name: torch.randn(7, len(known.get(name, labels)), generator=torch.Generator().manual_seed(1)) for name in peers}
    num_syncs = []
    for num_batches in (1, 1, 4):  # the first makes the metrics
        with count_ops() as counts:
            evaluator(lambda pixels, batch: logits, [batch] * num_batches, observers=[chance])
        num_syncs.append(len(counts.host_syncs))
    if not multi_label:  # torchmetrics' average precision looks at each distinct score when it is computed
        assert num_syncs[2] == num_syncs[1]
        assert num_syncs[1] <= 1 + 2 * (len(peers) + 1)
    with count_ops() as counts:
        chance.add(ScoredBatch(batch, logits, batch.labels, evaluator._add(logits, batch.labels)))
    assert counts.host_syncs == []
