"""Peers without a head: where a recipe may have one, and the lines that refuse edges which read logits of it."""

import pytest

from mutual.recipe import OBJECTIVES, DistillationObjective, RecipeError, parse_recipe
from mutual.recipe.checks import LOSSES_OF_EMBEDDINGS

FITTING = "cosine, crd, hint, l1, l2, mcl, pefd, rkd_angle, rkd_distance, similarity, smooth_l1 read its embedding"
READ_LOGITS = [name for name, section in OBJECTIVES.items() if issubclass(section, DistillationObjective) and section.reads == "logits"]
READ_MAPS = [name for name, section in OBJECTIVES.items() if section.reads == "maps"]


def recipe(*objectives, **teacher):
    peers = {
        "student": {"model": "small_cnn"},
        "other": {"model": "small_cnn"},
        "t": {"model": "small_cnn", "frozen": True, "head": "none", **teacher},
    }
    return parse_recipe({"name": "test", "peers": peers, "objectives": [{"loss": "cross_entropy"}, *objectives]}, source="r.yaml")


def lines_of(*objectives, **teacher):
    with pytest.raises(RecipeError) as caught:
        recipe(*objectives, **teacher)
    return str(caught.value).splitlines()


def test_the_losses_that_fit_are_all_that_read_no_logits_and_no_maps():
    assert ", ".join(LOSSES_OF_EMBEDDINGS) + " read its embedding" == FITTING
    assert set(READ_LOGITS) == {"kd", "soft_label", "dml", "dkd", "dist", "wsl", "skd", "ssld", "okddip"}
    assert set(READ_MAPS) == {"at", "ofd", "mgd", "afd"}


@pytest.mark.parametrize("loss", READ_LOGITS)
def test_a_loss_that_reads_logits_refuses_it(loss):
    line = (
        f"r.yaml: objectives.1.sources: {loss} reads logits, and peer 't' has none (head: none); name other sources, "
        f"or take another loss: {FITTING}"
    )
    assert lines_of({"loss": loss, "sources": ["t"]}) == [line]
    assert lines_of({"loss": loss, "sources": ["t"], "source_at": "embedding"}) == [line]


def test_all_other_peers_are_sources_unless_some_are_named():
    assert lines_of({"loss": "dml"})[0].startswith("r.yaml: objectives.1.sources: dml reads logits, and peer 't' has none")
    recipe({"loss": "dml", "sources": ["other"], "learners": ["student"]})


@pytest.mark.parametrize("loss", LOSSES_OF_EMBEDDINGS)
def test_a_loss_that_fits_reads_its_embedding_or_a_module(loss):
    for at in ("embedding", "blocks3"):
        recipe({"loss": loss, "sources": ["t"], "at": "blocks3", "source_at": at})
    recipe({"loss": loss, "sources": ["t"], "at": {"student": "fc:input", "other": "blocks3", "t": "embedding"}})
    line = "peer 't' has no logits (head: none); write source_at: embedding, or a module path"
    assert lines_of({"loss": loss, "sources": ["t"]}) == [f"r.yaml: objectives.1.at: {line}"]
    assert lines_of({"loss": loss, "sources": ["t"], "at": "blocks3", "source_at": "logits"}) == [f"r.yaml: objectives.1.source_at: {line}"]


def test_a_mapping_is_asked_for_its_own_path():
    at = {"student": "blocks3", "other": "blocks3", "t": "logits"}
    line = "peer 't' has no logits (head: none); write source_at: embedding, or a module path"
    assert lines_of({"loss": "l2", "sources": ["t"], "at": at}) == [f"r.yaml: objectives.1.at: {line}"]
    assert lines_of({"loss": "l2", "sources": ["t"], "at": {**at, "t": ["embedding", "logits"]}}) == [f"r.yaml: objectives.1.at: {line}"]


@pytest.mark.parametrize("loss", READ_MAPS)
def test_a_loss_that_reads_feature_maps_takes_a_module_inside(loss):
    recipe({"loss": loss, "sources": ["t"], "at": "blocks3"})
    assert lines_of({"loss": loss, "sources": ["t"], "at": "blocks3", "source_at": "embedding"}) == [
        f"r.yaml: objectives.1.source_at: {loss} reads feature maps, and the embedding of peer 't' is a vector; give the path of a module "
        f"inside it; {FITTING}"
    ]
    assert lines_of({"loss": loss, "sources": ["t"], "at": ["blocks3", "logits"]}) == [
        "r.yaml: objectives.1.at: peer 't' has no logits (head: none); give the path of a module inside it"
    ]


def test_a_gate_that_asks_whether_it_is_right_refuses_it():
    assert lines_of({"loss": "l2", "sources": ["t"], "at": "blocks3", "gate": "correct"}) == [
        "r.yaml: objectives.1.gate: 'correct' asks whether a source is right, and peer 't' has no logits (head: none)"
    ]


def test_an_ensemble_refuses_it_as_a_member():
    line = "r.yaml: objectives.1.ensemble.members: an ensemble is one of logits, and peer 't' has none (head: none); leave it out"
    assert lines_of({"loss": "kd", "sources": "ensemble"}) == [line]
    assert lines_of({"loss": "kd", "sources": "ensemble", "ensemble": {"members": ["other", "t"], "own": True}}) == [line]
    recipe({"loss": "kd", "sources": "ensemble", "ensemble": {"members": ["other", "student"]}})


def test_only_a_frozen_peer_may_have_none():
    assert lines_of(frozen=False) == [
        "r.yaml: peers.t.head: peer 't' is trained and needs a classifier; 'none' is for one with frozen: true"
    ]


def test_only_an_embedding_is_standardised():
    recipe(standardize=True)
    assert lines_of(head="classifier", standardize=True) == [
        "r.yaml: peers.t.standardize: is for an embedding, and peer 't' gives logits; set head: none"
    ]


def test_an_unknown_head_is_one_line():
    (line,) = lines_of(head="nothing")
    assert line.startswith("r.yaml: peers.t.head: 'nothing' is no valid head")


def test_a_mapping_that_says_nothing_of_it_is_one_line():
    """And not an error of ours: another check names what is missing."""
    (line,) = lines_of({"loss": "l2", "sources": ["t"], "at": {"student": "blocks3", "other": "blocks3"}})
    assert "says nothing of peer 't'" in line


def test_who_gives_logits_and_who_does_not():
    assert recipe().classifiers == ("student", "other")
    assert recipe().headless == ("t",)


def test_its_outputs_stand_for_no_classes():
    objective = {"loss": "l2", "sources": ["t"], "at": "blocks3"}
    line = "r.yaml: peers.t.classes: are those of logits, and peer 't' has none (head: none); take this away"
    assert lines_of(objective, classes=["a", "b"]) == [line]
