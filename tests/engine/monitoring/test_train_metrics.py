"""What is counted of a micro-batch."""

import torch

from mutual.engine.monitoring.train_metrics import _num_correct

LABELS = torch.tensor([0, 1, -1])


def test_right_answers_are_counted_for_each_peer_in_whatever_precision_it_is():
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    alike = _num_correct({"a": logits, "b": logits.flip(1)}, LABELS)
    mixed = _num_correct({"a": logits, "b": logits.flip(1).double()}, LABELS)
    assert {name: int(number) for name, number in alike.items()} == {"a": 1, "b": 1}
    assert mixed == alike


def test_a_rank_without_learners_counts_none():
    assert _num_correct({}, LABELS) == {}
