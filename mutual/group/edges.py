"""Edges: the objectives of a recipe, spread out into directed pairs `learner <- source`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mutual.objectives import Loss, build_loss
from mutual.recipe import LOGITS, Objective, Recipe, SourcedObjective


@dataclass(frozen=True)
class Edge:
    """One learner's loss against one source, or against the labels where `source` is None.

    `index` is the objective's place in the recipe and `objective` its name in logs. `weight` is the objective's weight,
    divided by the number of the learner's sources where the objective averages over them.
    """

    index: int
    objective: str
    learner: str
    source: str | None
    learner_at: str
    source_at: str
    weight: float
    loss: Loss

    def __str__(self) -> str:
        return f"{self.objective} ({self.learner} <- {self.source or 'labels'})"


def expand(recipe: Recipe) -> list[Edge]:
    """Returns the edges of all objectives, in the recipe's order, then the learners', then the sources'."""
    names = objective_names(recipe)
    edges = []
    for index, (name, objective) in enumerate(zip(names, recipe.objectives, strict=True)):
        loss = build_loss(objective.loss, **objective.loss_arguments())
        for learner in recipe.learners_of(objective):
            if not isinstance(objective, SourcedObjective):
                edges.append(Edge(index, name, learner, None, LOGITS, LOGITS, objective.weight, loss))
                continue
            sources = recipe.sources_of(objective, learner)
            weight = objective.weight / len(sources) if objective.reduce == "mean" else objective.weight
            edges += [
                Edge(index, name, learner, source, objective.at_of(learner), objective.at_of(source), weight, loss) for source in sources
            ]
    return edges


def objective_names(recipe: Recipe) -> list[str]:
    """Returns a name for each objective: its loss, `loss@output` where it reads a feature, numbered where two would be equal."""
    names = [_name(objective) for objective in recipe.objectives]
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return numbered


def tap_paths(edges: list[Edge], peer: str) -> list[str]:
    """Returns the module paths of `peer` that some edge reads."""
    ends = [edge.learner_at for edge in edges if edge.learner == peer] + [edge.source_at for edge in edges if edge.source == peer]
    return [path for path in dict.fromkeys(ends) if path != LOGITS]


def _name(objective: Objective) -> str:
    if not isinstance(objective, SourcedObjective) or objective.at == LOGITS:
        return objective.loss
    at = objective.at if isinstance(objective.at, str) else "-".join(dict.fromkeys(objective.at.values()))
    return f"{objective.loss}@{at}"
