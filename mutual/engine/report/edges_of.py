"""edges_of: who learns what from whom, as far as a recipe says it; builds no model and runs no code of the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mutual.engine.report.findings import EdgeFinding
from mutual.objectives import spec_of
from mutual.recipe import (
    EMBEDDING,
    ENSEMBLE,
    LOGITS,
    DistillationObjective,
    Objective,
    OwnLoss,
    Recipe,
    is_ema,
    peer_of,
)

LABELS = "labels"
"""Source of a loss that reads ground truth alone."""


def edges_of(recipe: Recipe) -> list[EdgeFinding]:
    """Returns the edges of a recipe: in the order of its objectives, then of the learners, then of the sources."""
    return [
        edge
        for objective in recipe.objectives
        if objective.gate != "cutoff"
        for learner in recipe.learners_of(objective)
        for edge in _edges(recipe, objective, learner)
    ]


def unread_losses(recipe: Recipe) -> list[str]:
    """Returns the losses of the user's own of which only their code, which a report does not run, says whether they have a source."""
    own = (each for each in recipe.objectives if isinstance(each, OwnLoss))
    return list(dict.fromkeys(each.loss for each in own if each.sources is None))


def tapped_paths(recipe: Recipe) -> dict[str, list[str]]:
    """Returns by peer the module paths that objectives read of it, as a learner or as a source."""
    paths: dict[str, list[str]] = {name: [] for name in recipe.peers}
    for objective in recipe.objectives:
        for learner in recipe.learners_of(objective):
            paths[learner] += objective.at_of(learner)
            if isinstance(objective, DistillationObjective):
                sources = [peer_of(source) for source in recipe.sources_of(objective, learner) if source != ENSEMBLE]
                for source in sources:
                    paths[source] += objective.source_at_of(source)
    return {name: _features(of_peer) for name, of_peer in paths.items()}


def _edges(recipe: Recipe, objective: Objective, learner: str) -> list[EdgeFinding]:
    at = objective.at_of(learner)
    sources = recipe.sources_of(objective, learner)
    if not sources or not isinstance(objective, DistillationObjective):
        return [EdgeFinding(learner, LABELS, objective.loss, _text(at), objective.weight)]
    is_joint = not isinstance(objective, OwnLoss) and spec_of(objective.loss).multi_source
    weight = objective.weight / len(sources) if objective.reduce == "mean" and not is_joint else objective.weight
    return [EdgeFinding(learner, source, objective.loss, _both(at, _source_at(objective, source)), weight) for source in sources]


def _source_at(objective: DistillationObjective, source: str) -> Sequence[str]:
    return (LOGITS,) if source == ENSEMBLE else objective.source_at_of(peer_of(source) if is_ema(source) else source)


def _both(learner_at: Sequence[str], source_at: Sequence[str]) -> str:
    return _text(learner_at) if tuple(learner_at) == tuple(source_at) else f"{_text(learner_at)} <- {_text(source_at)}"


def _text(paths: Iterable[str]) -> str:
    return ", ".join(paths)


def _features(paths: Iterable[str]) -> list[str]:
    return [path for path in dict.fromkeys(paths) if path not in (LOGITS, EMBEDDING)]
