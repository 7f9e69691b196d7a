"""Edges from the recipe alone are those that a training has."""

from pathlib import Path

import pytest
from support import ROOT, tiny_document

from mutual.engine.report.edges_of import edges_of, tapped_paths, unread_losses
from mutual.group import expand_objectives
from mutual.recipe import LOGITS, load_recipe, parse_recipe

RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(Path(path).relative_to(ROOT / "recipes")))
def test_they_are_those_of_a_training(path):
    recipe = load_recipe(path)
    expected = {
        (edge.learner, source, edge.objective.loss, round(edge.weight, 9))
        for edge in expand_objectives(recipe)
        for source in edge.sources or ("labels",)
    }
    assert {(edge.learner, edge.source, edge.loss, round(edge.weight, 9)) for edge in edges_of(recipe)} == expected
    paths = {(edge.learner, path) for edge in expand_objectives(recipe) for path in edge.learner_at if path != LOGITS}
    assert paths <= {(peer, path) for peer, of_peer in tapped_paths(recipe).items() for path in of_peer}


def test_weights_are_shared_over_sources_and_outputs_are_named():
    peers = {name: {"model": "small_cnn"} for name in "abc"}
    objectives = [
        {"loss": "cross_entropy"},
        {"loss": "dml", "learners": ["a"], "weight": 3.0},
        {"loss": "l2", "learners": ["b"], "sources": ["c"], "at": "blocks1", "source_at": "blocks2"},
        {"loss": "kd", "learners": ["c"], "sources": ["ensemble", "a.ema"], "reduce": "sum"},
        {"loss": "dml", "gate": "cutoff"},
    ]
    train = {"epochs": 1, "ema": 0.9}
    recipe = parse_recipe(tiny_document(peers=peers, objectives=objectives, train=train))
    found = [(edge.learner, edge.source, edge.at, edge.weight) for edge in edges_of(recipe)]
    assert found == [
        *((peer, "labels", "logits", 1.0) for peer in "abc"),
        ("a", "b", "logits", 1.5),
        ("a", "c", "logits", 1.5),
        ("b", "c", "blocks1 <- blocks2", 1.0),
        ("c", "ensemble", "logits", 1.0),
        ("c", "a.ema", "logits", 1.0),
    ]
    assert tapped_paths(recipe) == {"a": [], "b": ["blocks1"], "c": ["blocks2"]}


def test_code_of_the_users_own_is_not_run():
    recipe = parse_recipe(tiny_document(objectives=[{"loss": "cross_entropy"}, {"loss": "nowhere_to_be_found:loss"}]))
    assert [edge.source for edge in edges_of(recipe)] == ["labels"] * 4
    assert unread_losses(recipe) == ["nowhere_to_be_found:loss"]
