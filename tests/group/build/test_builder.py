"""A group is checked when it is built: every mistake is one line that names the key path."""

import pytest
import torch
from support import build, tiny_document

from mutual.recipe import RecipeError


def edges_of(document):
    return {(edge.objective, edge.learner, edge.source): edge.weight for edge in build(document)[2].edges}


def test_objectives_expand_into_directed_edges():
    document = tiny_document(objectives=[{"loss": "cross_entropy"}, {"loss": "dml", "learners": ["a"], "weight": 0.5}])
    assert edges_of(document) == {("cross_entropy", "a", None): 1, ("cross_entropy", "b", None): 1, ("dml", "a", "b"): 0.5}


def test_several_sources_are_averaged_or_summed():
    peers = {name: {"model": "support:double"} for name in "abc"}
    for reduce, weight in (("mean", 0.5), ("sum", 1.0)):
        objectives = [{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["a"], "reduce": reduce}]
        edges = edges_of(tiny_document(peers=peers, objectives=objectives))
        assert edges["kd", "a", "b"] == edges["kd", "a", "c"] == weight


def test_equal_objectives_get_names_of_their_own():
    objectives = [{"loss": "cross_entropy"}, {"loss": "l2", "at": "body"}, {"loss": "l2", "at": "body"}, {"loss": "l2"}]
    names = {edge.objective for edge in build(tiny_document(objectives=objectives))[2].edges}
    assert names == {"cross_entropy", "l2@body", "l2@body_2", "l2"}


def test_each_peer_may_be_read_at_a_path_of_its_own():
    peers = {"a": {"model": "support:double"}, "b": {"model": "support:double", "args": {"width": 4}}}
    objectives = [{"loss": "cross_entropy"}, {"loss": "l2", "at": {"a": "body", "b": "body"}}]
    group = build(tiny_document(peers=peers, objectives=objectives))[2]
    outputs = {name: group.forward_peer(name, torch.zeros(2, 1, 8, 8), seed=0) for name in "ab"}
    assert all("body" in output for output in outputs.values())


WIDE = {"a": {"model": "support:double"}, "b": {"model": "support:double", "args": {"width": 6}}}
FEATURE = [{"loss": "cross_entropy"}, {"loss": "l2", "at": "body"}]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"peers": {"a": {"model": "pplcnet_x1_1"}}, "objectives": FEATURE[:1]},
            r"^peers.a.model: .*pplcnet_x1_1.*did you mean 'pplcnet_x1_",
        ),
        ({"peers": {"a": {"model": "support:tinny"}}, "objectives": FEATURE[:1]}, r"^peers.a.model: .*did you mean 'tiny'"),
        (
            {"objectives": [{"loss": "cross_entropy"}, {"loss": "l2", "at": "bodi"}]},
            r"^objectives.1.at: peer 'a' .* no module 'bodi'; near: body",
        ),
        ({"peers": WIDE, "objectives": FEATURE}, r"^objectives.1.at: a.body has shape \(4, 2, 2\) and b.body has shape \(6, 2, 2\).*hint"),
        (
            {"peers": {**WIDE, "b": {"model": "support:double", "weights": "no/such.safetensors"}}},
            r"^peers.b.weights: .*no/such.safetensors",
        ),
        (
            {"peers": {**WIDE, "b": {"model": "support:double", "args": {"num_classes": 7}}}},
            r"^peers.b.model: class counts differ: .*\(7,\).* 4 classes",
        ),
        ({"optimizer": {"name": "sdg"}}, r"'sdg' is no optimizer; did you mean 'sgd'"),
        ({"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}}, r"sgd takes no 'betas'"),
        ({"optimizer": {"name": "adamw", "args": {"amsgrd": True}}}, r"adamw takes no 'amsgrd'; did you mean 'amsgrad'"),
    ],
)
def test_a_mistake_is_told_in_a_line(sections, message):
    with pytest.raises((RecipeError, ValueError), match=message) as caught:
        build(tiny_document(**sections))
    assert "\n" not in str(caught.value)
