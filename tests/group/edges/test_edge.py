"""From objectives to edges: which outputs each reads, what it weighs, and what it is called."""

import pytest
from support import tiny_document

from mutual.group import expand_objectives
from mutual.group.edges.edge import OutputKey, objective_names, tap_paths
from mutual.objectives import SourcePayload
from mutual.recipe import RecipeError, parse_recipe

CE = {"loss": "cross_entropy"}
PEERS = {name: {"model": "support:tiny"} for name in "abc"}


def recipe_of(*objectives, **sections):
    return parse_recipe(tiny_document(peers=PEERS, objectives=[CE, *objectives], train={"ema": 0.9}, **sections))


def edges_of(*objectives, learner="a"):
    return [edge for edge in expand_objectives(recipe_of(*objectives)) if edge.objective_index > 0 and edge.learner == learner]


def test_what_is_cut_off_hides_nothing_behind_it():
    (edge,) = edges_of({"loss": "dml", "gate": "cutoff"}, {"loss": "kd", "learners": ["a"], "sources": ["b"]})
    assert (edge.objective_index, edge.name, edge.source) == (2, "kd", "b")


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        ({"loss": "kd", "weight": 3.0}, [1.5, 1.5]),
        ({"loss": "kd", "weight": 3.0, "reduce": "sum"}, [3.0, 3.0]),
        ({"loss": "kd", "weight": 3.0, "sources": "ensemble"}, [3.0]),
        ({"loss": "okddip", "weight": 3.0, "at": "body"}, [3.0]),
        ({"loss": "l2", "weight": 3.0, "at": ["stem", "body"]}, [1.5] * 4),
        ({"loss": "cross_entropy", "weight": 3.0, "at": ["stem", "body"]}, [3.0, 3.0]),
    ],
)
def test_a_weight_is_shared_by_the_sources_that_are_averaged(objective, weights):
    assert [edge.weight for edge in edges_of(objective)] == weights


def required(objective, learner="a"):
    return [edge.required_outputs for edge in edges_of({"learners": ["a"], **objective}, learner=learner)]


def test_an_edge_requires_what_its_loss_reads():
    whole, vector, between = SourcePayload.WHOLE, SourcePayload.VECTOR, SourcePayload.DISTANCES
    assert required({"loss": "kd", "sources": ["b"]}) == [{OutputKey("b", "logits"): whole}]
    assert required({"loss": "pefd", "at": "body", "sources": ["b"]}) == [{OutputKey("b", "body"): vector}]
    gated = {"loss": "rkd_angle", "at": "body", "sources": ["b"], "gate": "correct"}
    assert required(gated) == [{OutputKey("b", "body"): between, OutputKey("b", "logits"): whole}]
    logits = {"loss": "rkd_angle", "sources": ["b"], "gate": "correct"}
    assert required(logits) == [{OutputKey("b", "logits"): whole}], "the gate reads all of what the loss reads distances of"
    assert required({"loss": "kd", "sources": "ensemble"}) == [{OutputKey(name, "logits"): whole for name in "bc"}]
    joint = {OutputKey(name, path): vector for name in "bc" for path in ("logits", "body")}
    assert required({"loss": "okddip", "at": "body"}) == [joint]


def test_an_edge_requires_others_once_and_never_its_learner():
    (ensemble,) = edges_of({"loss": "kd", "sources": "ensemble", "ensemble": {"own": True}})
    assert ensemble.required_sources == ["b", "c"]
    (own,) = edges_of({"loss": "hint", "sources": "self", "at": "stem", "source_at": "body"})
    assert own.required_sources == []
    (average,) = edges_of({"loss": "kd", "sources": "ema"})
    assert average.required_sources == ["a.ema"]


@pytest.mark.parametrize(
    ("objective", "reads"),
    [
        (CE, True),
        ({"loss": "kd"}, False),
        ({"loss": "dkd"}, True),
        ({"loss": "kd", "gate": "correct"}, True),
        ({"loss": "kd", "gate": "linear"}, False),
        ({"loss": "kd", "sources": "ensemble"}, False),
        ({"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": "mean"}}, False),
        ({"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": "naive"}}, True),
    ],
)
def test_labels_are_read_by_a_loss_an_ensemble_or_a_gate(objective, reads):
    assert {edge.reads_labels for edge in edges_of(objective)} == {reads}


def test_objectives_are_named_after_loss_and_output_and_numbered():
    features = [{"loss": "l2", "at": {"a": "body", "b": ["stem", "body"], "c": "body"}}, {"loss": "l2", "at": "body"}]
    assert objective_names(recipe_of(*features, features[1], features[1])) == [
        "cross_entropy",
        "l2@body-stem,body",
        "l2@body",
        "l2@body_2",
        "l2@body_3",
    ]


def test_taps_are_what_some_edge_reads_of_this_peer_once():
    objectives = [
        {"loss": "hint", "learners": ["a"], "sources": ["b"], "at": "stem", "source_at": "body"},
        {"loss": "hint", "learners": ["a"], "sources": ["b"], "at": "stem", "source_at": "body"},
        {"loss": "l2", "learners": ["c"], "sources": "ema", "at": "norm"},
    ]
    edges = expand_objectives(recipe_of(*objectives))
    assert {name: tap_paths(edges, name) for name in ("a", "b", "c", "a.ema", "c.ema")} == {
        "a": ["stem"],
        "b": ["body"],
        "c": ["norm"],
        "a.ema": [],
        "c.ema": ["norm"],
    }


def test_outputs_are_paired_or_one_stands_for_all():
    def pairs(**fields):
        return [(edge.learner_at, edge.source_at) for edge in edges_of({"loss": "hint", "learners": ["a"], "sources": ["b"], **fields})]

    one = [(("stem",), (("head",),)), (("body",), (("head",),))]
    assert pairs(at=["stem", "body"], source_at="head") == one
    assert pairs(at=["stem", "body"], source_at=["norm", "head"]) == [(("stem",), (("norm",),)), (("body",), (("head",),))]
    with pytest.raises(RecipeError, match=r"a has 1 outputs there and b has 2; hint needs pairs, or one source"):
        pairs(at="stem", source_at=["norm", "head"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"at": "body", "gate": "correct"}, "objectives.1.gate: okddip reads its sources together; 'correct' is for one source"),
        ({"at": ["body", "stem"]}, "objectives.1.at: okddip reads one embedding beside the logits"),
        ({"at": "logits"}, "objectives.1.at: okddip reads one embedding beside the logits"),
        ({"at": {"a": "body", "b": "logits", "c": "body"}}, "objectives.1.at: okddip reads one embedding beside the logits"),
    ],
)
def test_a_loss_of_several_sources_at_once_says_what_it_cannot_read(fields, message):
    with pytest.raises(RecipeError, match=message):
        edges_of({"loss": "okddip", **fields})
