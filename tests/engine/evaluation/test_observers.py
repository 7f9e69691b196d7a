"""What an evaluation counts beside its scores: pairs of peers, predictions that change, confusion and reliability; in closed forms.

Two ranks, both placements and whole runs are in tests/engine/training.
"""

import linecache
import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from support import WORLD

from mutual.data import Batch
from mutual.data.loading.batch import BadImage
from mutual.engine.costs.op_counts import count_ops
from mutual.engine.evaluation import (
    ChurnMeter,
    DetailsMeter,
    Evaluator,
    KeptOutputs,
    PairMeter,
    packed_predictions,
    pair_matrices,
    pairs_to_compare,
    reliability,
)
from mutual.engine.evaluation import kept_outputs as kept_module

N, C, SIZE = 23, 7, 5
KNOWN = {"c": (0, 2, 5)}
CPU = torch.device("cpu")


class Evaluation:
    """Evaluations of peers whose logits the test says, a frozen one `t` among them; `c` knows three classes."""

    def __init__(self, *, multi_label=False, bad=(), max_kept_bytes=None, monkeypatch=None):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.randint(0, C, (N,), generator=generator)
        if multi_label:
            self.labels = (torch.rand(N, C, generator=generator) > 0.6).float()
        self.generator, self.multi_label, self.bad = generator, multi_label, set(bad)
        if max_kept_bytes is not None:
            monkeypatch.setattr(kept_module, "MAX_KEPT_BYTES", max_kept_bytes)
        options = {"num_classes": C, "multi_label": multi_label}
        self.peers = ("a", "b", "c")
        self.evaluator = Evaluator(self.peers, self.peers, device=CPU, known_classes=KNOWN, **options)
        self.kept = KeptOutputs(["t"], num_images=N, **options)
        self.pairs = PairMeter(pairs_to_compare(["a", "t", "b"], ()), WORLD, self.kept, **options)
        self.churn = self.new_churn()
        self.logits = self.drawn()
        self.teacher = torch.randn(N, C, generator=generator)
        for batch in self.batches():
            self.kept.keep(batch, {"t": self.teacher[batch.keys_B2[:, 0]]})

    def new_churn(self, num_images=N):
        return ChurnMeter(self.evaluator.class_numbers, WORLD, num_images=num_images, multi_label=self.multi_label)

    def drawn(self):
        return {name: torch.randn(N, len(KNOWN.get(name, range(C))), generator=self.generator) for name in self.peers}

    def batches(self):
        for begin in range(0, N, SIZE):
            rows = torch.arange(begin, min(begin + SIZE, N))
            bad = tuple(BadImage("x", "torn", int(row) - begin) for row in rows if int(row) in self.bad)
            keys = torch.stack([rows, torch.zeros_like(rows)]).T
            yield Batch(torch.zeros(len(rows), 1, 4, 4, dtype=torch.uint8), self.labels[rows], len(rows), len(rows), bad=bad, keys_B2=keys)

    def __call__(self, *observers):
        def predict(_, batch):
            return {name: each[batch.keys_B2[:, 0]] for name, each in self.logits.items()}

        return self.evaluator(predict, self.batches(), observers=observers or (self.churn, self.pairs))

    @property
    def read(self):
        return torch.tensor([index not in self.bad for index in range(N)])

    def predictions(self, logits):
        return logits > 0 if self.multi_label else logits.argmax(dim=1)


def divergence(p, q, *, multi_label):
    """The mean of KL(p || q) in float64."""
    if multi_label:
        p, q = (torch.stack([F.logsigmoid(logits.double()), F.logsigmoid(-logits.double())]) for logits in (p, q))
        return (p.exp() * (p - q)).sum(dim=(0, 2)).mean().item()
    p, q = (F.log_softmax(logits.double(), dim=1) for logits in (p, q))
    return (p.exp() * (p - q)).sum(dim=1).mean().item()


@pytest.mark.parametrize("bad", [(), (0, 7, 22)], ids=["all read", "some bad"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_each_pair_of_peers_that_know_all_classes_is_compared(multi_label, bad):
    evaluation = Evaluation(multi_label=multi_label, bad=bad)
    for _ in range(2):  # nothing of the first evaluation is left in the second
        evaluation.logits = evaluation.drawn()
        scores = evaluation()
        found = evaluation.pairs.scores()
        all_logits = {**evaluation.logits, "t": evaluation.teacher}
        logits = {name: all_logits[name][evaluation.read] for name in "atb"}
        agreements = ["agreement/a/t", "agreement/a/b", "agreement/t/b"]
        assert list(found) == [*agreements, "kl/a/t", "kl/t/a", "kl/a/b", "kl/b/a", "kl/t/b", "kl/b/t"]
        for a, b in permutations("atb", 2):
            same = evaluation.predictions(logits[a]) == evaluation.predictions(logits[b])
            assert found[f"kl/{a}/{b}"] == pytest.approx(divergence(logits[b], logits[a], multi_label=multi_label), rel=1e-5)
            if f"agreement/{a}/{b}" in found:
                assert found[f"agreement/{a}/{b}"] == same.double().mean().item()
        assert found["agreement/a/b"] == pytest.approx(scores["pairs"]["agreement"])
        assert (found["kl/a/b"] + found["kl/b/a"]) / 2 == pytest.approx(scores["pairs"]["kl"], rel=1e-4)


def test_where_logits_are_too_many_frozen_peers_are_compared_by_their_predictions(monkeypatch):
    """What is compared is the same number for number."""
    whole, bounded = Evaluation(), Evaluation(max_kept_bytes=N * C * 4 - 1, monkeypatch=monkeypatch)
    assert (whole.kept.has_logits, bounded.kept.has_logits) == (True, False)
    for evaluation in (whole, bounded):
        evaluation()
    found, expected = bounded.pairs.scores(), whole.pairs.scores()
    assert list(found) == ["agreement/a/t", "agreement/a/b", "agreement/t/b", "kl/a/b", "kl/b/a"]
    assert found == {key: expected[key] for key in found}


def test_of_many_peers_those_are_compared_that_an_edge_joins():
    peers = [f"p{index}" for index in range(9)]
    joined = {frozenset(("p8", "p1")), frozenset(("p3", "p3")), frozenset(("p2", "other"))}
    assert pairs_to_compare(peers, joined) == [("p1", "p8")]
    assert len(pairs_to_compare(peers[:8], joined)) == 28
    assert pairs_to_compare(["a"], joined) == []


@pytest.mark.parametrize("bad", [(), (0, 7, 22)], ids=["all read", "some bad"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_churn_is_the_fraction_of_predictions_that_changed(multi_label, bad):
    evaluation = Evaluation(multi_label=multi_label, bad=bad)
    evaluation()
    assert evaluation.churn.finish() == {}, "there was none before"
    before, evaluation.logits = evaluation.logits, evaluation.drawn()
    evaluation.bad = {*bad, 3}  # read in one of both
    evaluation()
    found = evaluation.churn.finish()
    is_counted = evaluation.read
    for name in "abc":
        change = evaluation.predictions(before[name]) != evaluation.predictions(evaluation.logits[name])
        is_known = is_counted
        if name == "c" and not multi_label:
            is_known = is_counted & torch.isin(evaluation.labels, torch.tensor(KNOWN["c"]))
        assert found[name] == change[is_known].double().mean().item(), name
    task = torch.sigmoid if multi_label else torch.nn.Softmax(dim=1)
    ensembles = [(task(each["a"]) + task(each["b"])) / 2 for each in (before, evaluation.logits)]
    was, now = ((each > 0.5 if multi_label else each.argmax(1))[is_counted] for each in ensembles)
    assert found["ensemble"] == (was != now).double().mean().item()
    evaluation()
    assert evaluation.churn.finish() == dict.fromkeys(["a", "b", "c", "ensemble"], 0.0)


@pytest.mark.parametrize("multi_label", [False, True])
def test_predictions_come_back_from_a_checkpoint(multi_label):
    evaluation = Evaluation(multi_label=multi_label, bad=(4,))
    evaluation()
    evaluation.churn.finish()
    state = evaluation.churn.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.uint8}
    assert {tensor.nbytes for tensor in state.values()} == {N}, "a byte an image, of up to 255 classes or 7 labels"
    evaluation.logits = evaluation.drawn()
    resumed, of_other_data, of_an_older_version = evaluation.new_churn(), evaluation.new_churn(num_images=N + 2), evaluation.new_churn()
    resumed.load_state_dict(state)
    of_other_data.load_state_dict(state)
    of_an_older_version.load_state_dict({})
    evaluation(evaluation.churn, resumed, of_other_data, of_an_older_version)
    expected = evaluation.churn.finish()
    assert len(expected) == 4
    assert resumed.finish() == expected
    assert of_other_data.finish() == of_an_older_version.finish() == {}


def test_packed_predictions_come_back():
    for num_classes, dtype in ((2, torch.uint8), (255, torch.uint8), (256, torch.int16), (32768, torch.int32)):
        classes = torch.tensor([0, num_classes - 1])
        packed = packed_predictions.pack(classes, num_classes)
        assert packed.dtype == dtype == packed_predictions.empty(1, num_classes, multi_label=False).dtype
        unpacked, is_there = packed_predictions.unpack(packed, num_classes)
        assert torch.equal(unpacked, classes)
        assert is_there.all()
    for num_labels in (1, 7, 8, 80):
        flags = torch.rand(9, num_labels, generator=torch.Generator().manual_seed(0)) > 0.5
        packed = packed_predictions.pack(flags, num_labels)
        assert packed.shape == (9, num_labels // 8 + 1) == packed_predictions.empty(9, num_labels, multi_label=True).shape
        unpacked, is_there = packed_predictions.unpack(packed, num_labels)
        assert torch.equal(unpacked, flags)
        assert is_there.all()
    assert not packed_predictions.unpack(packed_predictions.empty(2, 7, multi_label=True), 7)[1].any()


@pytest.mark.parametrize("multi_label", [False, True])
def test_details_are_confusion_reliability_and_matrices(multi_label):
    evaluation = Evaluation(multi_label=multi_label, bad=(7,))
    meter = DetailsMeter(WORLD, evaluation.evaluator.class_numbers, multi_label=multi_label)
    scores = evaluation(meter, evaluation.pairs)
    pairs = evaluation.pairs.scores()
    details = meter.details(pairs, ["a", "t", "b"], known_classes=KNOWN)
    assert list(details.members) == ["a", "b", "c", "ensemble"]
    assert [each.classes for each in details.members.values()] == [None, None, (0, 2, 5), None]
    labels, logits = evaluation.labels[evaluation.read], evaluation.logits["a"][evaluation.read]
    found = details.members["a"]
    expected = reliability(logits.sigmoid() if multi_label else logits.softmax(dim=1), labels)
    assert torch.equal(found.reliability.counts_K, expected.counts_K)
    assert torch.equal(found.reliability.hits_K, expected.hits_K)
    torch.testing.assert_close(found.reliability.confidence_sums_K, expected.confidence_sums_K)
    if multi_label:
        assert all(each.confusion_CC is None for each in details.members.values())
    else:
        assert found.reliability.ece == pytest.approx(scores["a"]["ece"], rel=1e-5)
        matrix = torch.zeros(C, C, dtype=torch.long)
        for label, predicted in zip(labels, logits.argmax(dim=1), strict=True):
            matrix[label, predicted] += 1
        assert torch.equal(found.confusion_CC, matrix)
        of_part = details.members["c"]
        assert of_part.confusion_CC.shape == (3, 3)
        is_known = torch.isin(labels, torch.tensor(KNOWN["c"]))
        assert of_part.confusion_CC.sum() == of_part.reliability.counts_K.sum() == is_known.sum()
        assert of_part.confusion_CC.diagonal().sum() / is_known.sum() == pytest.approx(scores["c"]["top1"])
    assert details.peers == ("a", "t", "b")
    assert details.agreement_PP[1, 2] == details.agreement_PP[2, 1] == pairs["agreement/t/b"]
    assert details.kl_PP[1, 2] == pairs["kl/t/b"]
    assert details.kl_PP.diagonal().tolist() == [0, 0, 0]


def test_with_many_classes_there_is_no_confusion():
    meter = DetailsMeter(WORLD, {"a": 101, "b": 100}, multi_label=False)
    members = meter.details({}, ["a", "b"], known_classes={}).members
    assert members["a"].confusion_CC is None
    assert members["b"].confusion_CC.shape == (100, 100)


def test_pairs_that_are_not_compared_are_not_a_number():
    agreement, kl = pair_matrices({"agreement/a/b": 0.5, "kl/b/a": 1.0}, ["b", "a", "z"])
    assert agreement[0, 1] == agreement[1, 0] == 0.5
    assert kl[0, 1] == 1.0
    assert all(math.isnan(value) for value in (kl[1, 0], agreement[0, 2], kl[2, 1]))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_host_waits_for_no_batch_however_much_is_counted(multi_label):
    evaluation = Evaluation(multi_label=multi_label)
    meter = DetailsMeter(WORLD, evaluation.evaluator.class_numbers, multi_label=multi_label)
    observers = (evaluation.churn, evaluation.pairs, meter)
    evaluation(*observers)
    evaluation.churn.finish()
    seen = []

    class Seen:
        def add(self, scored):
            seen.append(scored)

    evaluation(Seen())
    with count_ops() as counts:
        for scored in seen:
            for observer in observers:
                observer.add(scored)
    places = [each.line.rpartition(":") for each in counts.host_syncs]
    lines = [linecache.getline(file, int(number)) for file, _, number in places]
    assert [line for line in lines if "keys_B2" not in line] == [], "these are in the host's memory"
    assert counts.kernels > 30
