"""Which images a loss reads, and that edges with the same gate share one selection."""

import torch
from support import build, tiny_document

from mutual.data import to_inputs
from mutual.group import MicroBatchContext
from mutual.group.edges.selection import EnsembleReader, OutputReader, Selections, Selector

LABELS = torch.tensor([0, 1, -1, 2])
LOGITS = {"b": {"logits": torch.eye(3)[[0, 2, 1, 2]]}}
GATE = OutputReader("b", ("logits",))


def test_all_images_without_a_gate():
    selection = Selections(LABELS).get(Selector(), {})
    assert (selection.rows, selection.fraction) == (slice(4), 1.0)
    assert torch.equal(selection.targets, LABELS)


def test_images_without_a_label_are_skipped():
    selection = Selections(LABELS).get(Selector(labelled_only=True), {})
    assert (selection.rows.tolist(), selection.targets.tolist(), selection.fraction) == ([0, 1, 3], [0, 1, 2], 3 / 4)


def test_a_gate_selects_what_its_source_classifies_correctly():
    selection = Selections(LABELS).get(Selector(labelled_only=True, gate=GATE), LOGITS)
    assert (selection.rows.tolist(), selection.targets.tolist(), selection.fraction) == ([0, 3], [0, 2], 2 / 4)


def test_a_gate_takes_the_likeliest_class_of_soft_labels():
    soft = torch.tensor([[0.6, 0.3, 0.1], [0.0, 0.6, 0.4], [0.2, 0.6, 0.2], [0.5, 0.3, 0.2]])
    selection = Selections(soft).get(Selector(gate=GATE), LOGITS)
    assert selection.rows.tolist() == [0, 2]
    assert torch.equal(selection.targets, soft[[0, 2]])


def test_nothing_selected_is_all_rows_with_weight_0():
    selection = Selections(torch.tensor([-1, -1])).get(Selector(labelled_only=True), {})
    assert (selection.rows, selection.targets.tolist(), selection.fraction) == (slice(2), [0, 0], 0.0)


def test_an_ensemble_may_be_the_gate():
    outputs = LOGITS | {"c": {"logits": torch.zeros(4, 3)}}
    gate = EnsembleReader(("b", "c"), "mean")
    assert Selections(LABELS).get(Selector(True, gate), outputs).rows.tolist() == [0, 3]


def test_edges_with_the_same_gate_share_one_selection(monkeypatch):
    """Of three losses of two learners through the gate of one source each, two selections are made, not six."""
    selected = []
    select = Selector.select
    monkeypatch.setattr(Selector, "select", lambda self, *args: selected.append(self) or select(self, *args))
    gated = [{"loss": loss, "gate": "correct"} for loss in ("dml", "kd", "l2")]
    _, data, group, _ = build(tiny_document(objectives=[{"loss": "cross_entropy"}, *gated]))
    (window, *_) = data.train_windows(0, start=0, world_size=1, rank=0, accumulate=1)
    images, labels = to_inputs(window.batches[0], data.info)
    group.forward(images, labels, MicroBatchContext(len(images), seed=0))
    assert len(selected) == 3, "one for the labels, one for each source"
