"""TrainMeter: sums of losses and hits, whoever trains the peers."""

import torch
from support import WORLD, tiny_document

from mutual.engine.monitoring import TrainMeter
from mutual.group import EdgeLosses, GroupOutput, expand_objectives
from mutual.recipe import parse_recipe

EDGES = expand_objectives(parse_recipe(tiny_document(objectives=[{"loss": "cross_entropy"}, {"loss": "dml"}])))
LABELS = torch.tensor([0, 1, 2, 3])


def meter():
    return TrainMeter(EDGES, ["a", "b"], WORLD)


def logits_of(*classes):
    return torch.nn.functional.one_hot(torch.tensor(classes), 4).float()


def test_losses_in_blocks_are_those_of_their_edges():
    both = meter()
    edge_losses = EdgeLosses([((2, 0), torch.tensor([3.0, 1.0])), ((3,), torch.tensor([4.0])), ((1,), torch.tensor([2.0]))])
    logits = {"a": logits_of(0, 1, 2, 3), "b": logits_of(0, 1, 0, 0)}
    output = GroupOutput({"a": torch.tensor(4.0), "b": torch.tensor(6.0)}, edge_losses, logits)
    both.add(output, LABELS, num_valid=4, update=0)
    metrics = both.flush()
    assert (metrics.loss, metrics.top1) == ({"a": 4.0, "b": 6.0}, {"a": 1.0, "b": 0.5})
    assert metrics.objectives == {"cross_entropy": 1.5, "dml": 3.5}


def test_a_rank_that_trains_some_of_the_peers_or_none_adds_nothing_of_the_others():
    some, none = meter(), meter()
    output = GroupOutput({"b": torch.tensor(6.0)}, EdgeLosses([((1,), torch.tensor([2.0]))]), {"b": logits_of(0, 1, 0, 0)})
    some.add(output, LABELS, num_valid=4, update=0)
    assert (some.flush().loss, some.epoch.correct) == ({"a": 0.0, "b": 6.0}, [0.0, 2.0])
    none.add(GroupOutput({}, EdgeLosses(), {}), LABELS, num_valid=4, update=0)
    assert none.flush().loss == {"a": 0.0, "b": 0.0}


def test_peers_of_different_dtypes_are_counted_alike():
    mixed = meter()
    logits = {"a": logits_of(0, 1, 2, 3), "b": logits_of(0, 1, 0, 0).double()}
    mixed.add(GroupOutput({"a": torch.tensor(4.0), "b": torch.tensor(6.0)}, EdgeLosses(), logits), LABELS, num_valid=4, update=0)
    assert mixed.flush().top1 == {"a": 1.0, "b": 0.5}
