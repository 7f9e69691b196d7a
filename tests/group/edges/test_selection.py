"""Which images a loss reads, and that edges with the same gate share one selection."""

import torch
from support import build, tiny_document

from mutual.data import mixed
from mutual.group import MicroBatchContext, expand_objectives
from mutual.group.edges.selection import EnsembleReader, OutputReader, Selection, Selections, Selector, readers_of
from mutual.recipe import parse_recipe

LABELS = torch.tensor([0, 1, -1, 2])
LOGITS = {"b": {"logits": torch.eye(3)[[0, 2, 1, 2]]}}
GATE = OutputReader("b", ("logits",))


def test_all_images_without_a_gate():
    selection = Selections(LABELS).get(Selector(), {})
    assert selection.mask is None
    assert torch.equal(selection.targets, LABELS)


def test_images_without_a_label_do_not_count():
    selection = Selections(LABELS).get(Selector(labelled_only=True), {})
    assert selection.mask.tolist() == [True, True, False, True]
    assert selection.targets[selection.mask].tolist() == [0, 1, 2]
    assert 0 <= selection.targets[2] < 3, "a class, so that the loss that is not looked at can be computed"


def test_a_gate_selects_what_its_source_classifies_correctly():
    selection = Selections(LABELS).get(Selector(labelled_only=True, gate=GATE), LOGITS)
    assert selection.mask.tolist() == [True, False, False, True]


def test_a_gate_takes_the_likeliest_class_of_soft_labels():
    soft = torch.tensor([[0.6, 0.3, 0.1], [0.0, 0.6, 0.4], [0.2, 0.6, 0.2], [0.5, 0.3, 0.2]])
    selection = Selections(soft).get(Selector(gate=GATE), LOGITS)
    assert selection.mask.tolist() == [True, False, True, False]
    assert torch.equal(selection.targets, soft)


def test_an_ensemble_may_be_the_gate():
    outputs = LOGITS | {"c": {"logits": torch.zeros(4, 3)}}
    gate = EnsembleReader(("b", "c"), "mean")
    assert Selections(LABELS).get(Selector(True, gate), outputs).mask.tolist() == [True, False, False, True]


def test_what_is_read_is_detached_and_of_the_valid_images():
    whole = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    distances = torch.arange(16.0).view(4, 4)
    outputs = {"b": {"logits": whole, "body": whole, "body:distances": distances}, "c": {"logits": whole.half()}}
    selection = Selection(LABELS[:2])
    reader = OutputReader("b", ("logits", "body"))
    logits, between = reader.read(outputs, selection)
    assert torch.equal(logits, whole[:2])
    assert not logits.requires_grad
    assert between.tolist() == [[0, 1], [4, 5]]
    assert reader.reads_distances(outputs)
    assert not OutputReader("b", ("logits",)).reads_distances(outputs)
    ensemble = EnsembleReader(("b", "c"), "mean")
    (mean,) = ensemble.read(outputs, selection)
    torch.testing.assert_close(mean, whole[:2].detach(), rtol=1e-3, atol=1e-3)
    assert (mean.dtype, mean.requires_grad) == (torch.float32, False)
    assert ensemble.reads_distances(outputs) is False


def test_only_edges_that_read_labels_skip_images_without_one():
    objectives = [{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["a"]}, {"loss": "l2", "learners": ["a"], "gate": "correct"}]
    edges = {edge.name: edge for edge in expand_objectives(parse_recipe(tiny_document(objectives=objectives)))}
    selectors = {name: Selector.of(edge, unlabelled=True) for name, edge in edges.items()}
    assert {name: selector.labelled_only for name, selector in selectors.items()} == {"cross_entropy": True, "kd": False, "l2": True}
    assert selectors["l2"].gate == OutputReader("b", ("logits",))
    assert selectors["kd"].gate is None
    assert not any(Selector.of(edge, unlabelled=False).labelled_only for edge in edges.values())
    ensemble = {"loss": "kd", "learners": ["a"], "sources": "ensemble", "ensemble": {"weighting": "naive", "own": True}}
    (edge,) = (edge for edge in expand_objectives(parse_recipe(tiny_document(objectives=[objectives[0], ensemble]))) if edge.sources)
    assert readers_of(edge) == [EnsembleReader(("a", "b"), "naive")]


def test_edges_with_the_same_gate_share_one_selection(monkeypatch):
    """Of three losses of two learners through the gate of one source each, two selections are made, not six."""
    selected = []
    read = OutputReader.read
    monkeypatch.setattr(OutputReader, "read", lambda self, *args: selected.append(self) or read(self, *args))
    gated = [{"loss": loss, "gate": "correct"} for loss in ("l1", "smooth_l1", "l2")]
    _, data, group, _ = build(tiny_document(objectives=[{"loss": "cross_entropy"}, *gated]))
    (window, *_) = data.train_windows(0, start=0, world_size=1, shard=(0, 1), accumulate=1)
    images, labels = mixed(window.batches[0], num_classes=data.info.num_classes)
    group.forward(images, labels, MicroBatchContext(len(images), seed=0))
    assert len(selected) == 2 + 6, "one gate for each source, and what the six edges compare with"
