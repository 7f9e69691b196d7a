"""Edges that are evaluated together give the values and gradients that each gives alone, in kernels that do not grow with their number."""

import pytest
import torch
from support import WORLD, tiny_document
from torch.utils._python_dispatch import TorchDispatchMode

from mutual.group import MicroBatchContext, expand_objectives
from mutual.group.edge_evaluation import EdgeEvaluation
from mutual.group.edges import EdgeLoss, can_be_batched, weight_factor
from mutual.group.edges.selection import Selections
from mutual.objectives import LOSSES, build_loss
from mutual.recipe import parse_recipe

CE = {"loss": "cross_entropy"}
ON_LOGITS = [name for name, spec in LOSSES.items() if spec.on_logits]
LABELS = torch.tensor([0, 3, -1, 1, 2, 0, -1])
ENSEMBLES = [
    {"sources": "ensemble", "ensemble": {"weighting": weighting, "own": own}}
    for weighting in ("mean", "naive", "linear", "min_logit")
    for own in (True, False)
]


def edges_of(objectives, *, num_peers=4, unlabelled=True):
    peers = {name: {"model": "support:double"} for name in "abcdefgh"[:num_peers]}
    document = tiny_document(peers=peers, objectives=objectives)
    document["data"] |= {"multi_label": objectives[0]["loss"] == "bce"}
    recipe = parse_recipe(document)
    losses = {}
    for index, edge in enumerate(expand_objectives(recipe)):
        loss = build_loss(edge.objective.loss, **edge.objective.loss_arguments())
        losses[index] = EdgeLoss(edge, loss, weight_factor(edge.objective, epochs=4), comm=WORLD, unlabelled=unlabelled)
    return losses


def outputs_of(num_peers=4, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = {name: 2 * torch.randn(9, 4, generator=generator, dtype=torch.float64) for name in "abcdefgh"[:num_peers]}
    return {name: {"logits": each.to(dtype).requires_grad_()} for name, each in logits.items()}


def together(losses, outputs, labels, *, unavailable=(), learners=None):
    chosen = {index: each for index, each in losses.items() if learners is None or each.edge.learner in learners}
    evaluation = EdgeEvaluation(chosen, sources_here=set(outputs), device=torch.device("cpu"))
    context = MicroBatchContext(len(labels), seed=0, epoch=1.0)
    return evaluation.forward(outputs, outputs, labels, context, unavailable=unavailable, handle=None)


def one_by_one(losses, outputs, labels, *, unavailable=()):
    selections, context = Selections(labels), MicroBatchContext(len(labels), seed=0, epoch=1.0)
    totals, values = {}, {}
    for index, loss in losses.items():
        value = loss.forward(outputs[loss.edge.learner], outputs, selections, context)
        weight = loss.weight(1.0) if set(unavailable).isdisjoint(loss.edge.required_sources) else 0.0
        totals[loss.edge.learner] = totals.get(loss.edge.learner, 0) + weight * value
        values[index] = value.detach()
    return totals, values


def gradients(losses, outputs):
    logits = [each["logits"] for each in outputs.values()]
    return torch.autograd.grad(list(losses.values()), logits, allow_unused=True, materialize_grads=True)


def check(objectives, labels=LABELS, *, dtype=torch.float64, unavailable=(), num_peers=4, without=()):
    losses = edges_of(objectives, num_peers=num_peers, unlabelled=not labels.is_floating_point())
    losses = {index: loss for index, loss in losses.items() if index not in without}
    outputs = outputs_of(num_peers, dtype=dtype)
    assert all(can_be_batched(each) for each in losses.values())
    expected, expected_edges = one_by_one(losses, outputs, labels, unavailable=unavailable)
    found, found_edges = together(losses, outputs, labels, unavailable=unavailable)
    close = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-6}
    assert dict(found_edges).keys() == expected_edges.keys()
    for index, value in expected_edges.items():
        torch.testing.assert_close(found_edges[index], value, **close)
    assert {name: loss.dtype for name, loss in found.items()} == {name: torch.promote_types(dtype, torch.float32) for name in expected}
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, **close)
    close = close if dtype != torch.bfloat16 else {"rtol": 1e-2, "atol": 1e-3}  # gradients are rounded to the logits' dtype
    for ours, theirs in zip(gradients(found, outputs), gradients(expected, outputs), strict=True):
        torch.testing.assert_close(ours, theirs, **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ON_LOGITS)
def test_every_loss_on_logits(name, dtype):
    labels = torch.nn.functional.one_hot(LABELS.clamp(min=0), 4).double() if name == "bce" else LABELS
    check([{"loss": name, "weight": 0.7}], labels, dtype=dtype)


@pytest.mark.parametrize("name", [name for name in ON_LOGITS if LOSSES[name].reads_source])
def test_every_loss_through_a_gate(name):
    check([CE, {"loss": name, "gate": "correct"}])


@pytest.mark.parametrize("name", ["cross_entropy", "kd", "dkd", "wsl"])
def test_labels_that_are_probabilities(name):
    soft = torch.rand(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    check([{"loss": name, **({"label_smoothing": 0.1} if name == "cross_entropy" else {})}], soft / soft.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_ensembles_beside_peers(ensemble):
    check([CE, {"loss": "kd", **ensemble}, {"loss": "dml", "learners": ["a", "c"], "gate": "correct", **ensemble}])


def test_learners_with_different_numbers_of_sources_and_weights_that_differ():
    """As where the others' outputs come from other processes, later."""
    check([CE, {"loss": "dml", "learners": ["b", "d"], "sources": ["a", "c"], "reduce": "sum", "weight": 0.3}], without=[5, 7])
    check([CE, {"loss": "dml"}, {"loss": "kd", "schedule": {"name": "linear"}}], without=[4, 5, 10, 23])


def test_a_source_that_is_not_available_weighs_nothing():
    check([CE, {"loss": "dml"}], unavailable={"b"})


@pytest.mark.parametrize("evaluate", [together, one_by_one])
@pytest.mark.parametrize("name", [name for name in ON_LOGITS if LOSSES[name].reads_source])
def test_a_source_that_overflows_in_an_image_that_does_not_count(name, evaluate):
    """A gate leaves out what a teacher in fp16 overflows at: its learner's gradient is that without the image."""
    losses = edges_of([CE, {"loss": name, "gate": "correct", "learners": ["a"], "sources": ["b"]}], num_peers=2, unlabelled=False)
    losses.pop(1)
    found = []
    for value in (torch.inf, -1.0):
        outputs = outputs_of(2)
        with torch.no_grad():
            outputs["b"]["logits"][2, :2] = value
            outputs["b"]["logits"][2, 3] = 5.0
        total, _ = evaluate(losses, outputs, LABELS.clamp(min=0).index_fill(0, torch.tensor([2]), 2))
        found.append(torch.autograd.grad(total["a"], outputs["a"]["logits"])[0])
    torch.testing.assert_close(*found)


def test_one_peer_alone_and_only_some_learners():
    check([CE], num_peers=1)
    losses, outputs = edges_of([CE, {"loss": "dml"}]), outputs_of()
    every, some = together(losses, outputs, LABELS)[0], together(losses, outputs, LABELS, learners="bd")[0]
    assert some.keys() == {"b", "d"}
    torch.testing.assert_close(some["d"], every["d"])


class Operators(TorchDispatchMode):
    """Counts the operators that do work, and names those on which the host waits for the device."""

    def __init__(self):
        super().__init__()
        self.count, self.waited = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        self.waited += [str(function)] if any(name in str(function) for name in ("_local_scalar", "nonzero", "masked_select")) else []
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "objectives",
    [
        [CE, {"loss": "dml"}],
        [CE, {"loss": "dkd", "gate": "correct"}, {"loss": "kd"}],
        [CE, {"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": "linear"}}],
    ],
)
def test_operators_do_not_grow_with_the_number_of_edges(objectives):
    counts = []
    for num_peers in (2, 8):
        losses, outputs = edges_of(objectives, num_peers=num_peers), outputs_of(num_peers)
        together(losses, outputs, LABELS)
        evaluation = EdgeEvaluation(losses, sources_here=set(outputs), device=torch.device("cpu"))
        with Operators() as operators:
            found, _ = evaluation.forward(outputs, outputs, LABELS, MicroBatchContext(7, seed=0), unavailable=(), handle=None)
            torch.autograd.backward(list(found.values()))
        assert not operators.waited
        counts.append(operators.count)
    assert counts[1] - counts[0] <= 6 * 4 * len(objectives), "a few for each peer more, and there are 54 edges more"
