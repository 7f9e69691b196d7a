"""Edges: the objectives of a recipe, spread out into directed pairs `learner <- source`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mutual.group.edges.own_losses import import_own_losses
from mutual.objectives import LossSpec, SourcePayload, spec_of
from mutual.recipe import ENSEMBLE, LOGITS, DistillationObjective, Objective, Recipe, peer_of

Paths = tuple[str, ...]
TensorSpec = tuple[tuple[int, ...], torch.dtype]
"""Shape of an output without the batch dimension, and its dtype."""


class OutputKey(NamedTuple):
    """Names an output: a peer or a moving average, and a module path or `logits`."""

    peer: str
    path: str


@dataclass(frozen=True)
class Edge:
    """One learner's loss against one source, or against the labels where there is none.

    Attributes:
        objective_index: index of the objective in the recipe.
        name: the objective's name in logs.
        objective: the objective itself.
        learner: the peer that learns.
        sources: a peer, a moving average ("a.ema") or "ensemble"; several where the loss reads them jointly, none for the labels.
        learner_at: the outputs that the loss reads of the learner.
        source_at: for each source the outputs that it reads of it.
        members: the peers in the ensemble.
        weight: the objective's weight, divided by the number of the learner's sources where the objective averages over them.
        loss_spec: what the edge's loss reads.
    """

    objective_index: int
    name: str
    objective: Objective
    learner: str
    sources: tuple[str, ...]
    learner_at: Paths
    source_at: tuple[Paths, ...]
    members: tuple[str, ...]
    weight: float
    loss_spec: LossSpec

    @property
    def source(self) -> str | None:
        """The sources as one word, or None for the labels."""
        return "+".join(self.sources) or None

    @property
    def required_sources(self) -> list[str]:
        """The peers and moving averages, other than the learner itself, whose outputs the loss reads."""
        names = [name for source in self.sources for name in (self.members if source == ENSEMBLE else (source,))]
        return [name for name in dict.fromkeys(names) if name != self.learner]

    @property
    def required_outputs(self) -> dict[OutputKey, SourcePayload]:
        """The outputs that the loss reads of its sources, and how much of each."""
        required: dict[OutputKey, SourcePayload] = {}
        payload = self.loss_spec.payload
        for source, paths in zip(self.sources, self.source_at, strict=True):
            if source == ENSEMBLE:
                required |= {OutputKey(member, LOGITS): SourcePayload.WHOLE for member in self.members}
                continue
            required |= {OutputKey(source, path): payload for path in paths}
            if self.objective.gate == "correct":
                required[OutputKey(source, LOGITS)] = SourcePayload.WHOLE
        return required

    @property
    def reads_labels(self) -> bool:
        """True if the loss, the ensemble or the gate reads labels, so that images without one are skipped."""
        ensemble = self.objective.ensemble if isinstance(self.objective, DistillationObjective) else None
        is_weighted = ensemble is not None and ensemble.weighting != "mean"
        return self.loss_spec.reads_labels or is_weighted or self.objective.gate == "correct"

    def __str__(self) -> str:
        return f"{self.name} ({self.learner} <- {self.source or 'labels'})"


def expand_objectives(recipe: Recipe) -> list[Edge]:
    """Returns the edges of all objectives whose gate is not cut off, in the recipe's order, then the learners', then the sources'.

    Imports losses that are the user's own.

    Raises:
        RecipeError: learner and source list different numbers of outputs, a joint loss is asked for one source at a time, or a loss of the
            user's own is wrong.
    """
    edges = []
    recipe = import_own_losses(recipe)
    for index, (name, objective) in enumerate(zip(objective_names(recipe), recipe.objectives, strict=True)):
        if objective.gate == "cutoff":
            continue
        loss_spec = spec_of(objective.loss)
        for learner in recipe.learners_of(objective):
            weight, members = objective.weight, recipe.members_of(objective, learner)
            pairs = list(_pairs(recipe, index, objective, learner, loss_spec))
            sources = recipe.sources_of(objective, learner)
            if sources and isinstance(objective, DistillationObjective) and objective.reduce == "mean" and not loss_spec.multi_source:
                weight /= len(sources)
            edges += [Edge(index, name, objective, learner, *pair, members, weight, loss_spec) for pair in pairs]
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


def tap_paths(edges: Sequence[Edge], name: str) -> list[str]:
    """Returns the module paths of a peer, or of a moving average, that some edge reads."""
    paths = [path for edge in edges if edge.learner == name for path in edge.learner_at]
    paths += [path for edge in edges for source, at in zip(edge.sources, edge.source_at, strict=True) if source == name for path in at]
    return [path for path in dict.fromkeys(paths) if path != LOGITS]


def _pairs(
    recipe: Recipe, index: int, objective: Objective, learner: str, loss_spec: LossSpec
) -> list[tuple[tuple[str, ...], Paths, tuple[Paths, ...]]]:
    """Returns sources, learner's outputs and sources' outputs of each edge of `learner` in an objective."""
    learner_at = objective.at_of(learner)
    if not (loss_spec.reads_source and isinstance(objective, DistillationObjective)):
        return [((), learner_at, ())] if loss_spec.multi_output else [((), (path,), ()) for path in learner_at]
    sources = recipe.sources_of(objective, learner)
    source_at = {source: (LOGITS,) if source == ENSEMBLE else objective.source_at_of(peer_of(source)) for source in sources}
    if loss_spec.multi_source:
        return [_joint_pair(recipe, index, objective, learner_at, source_at)]
    if loss_spec.multi_output:
        return [((source,), learner_at, (paths,)) for source, paths in source_at.items()]
    for source, paths in source_at.items():
        if len(paths) not in (1, len(learner_at)):
            raise recipe.error(
                f"objectives.{index}.at",
                f"{learner} has {len(learner_at)} outputs there and {source} has {len(paths)}; {objective.loss} needs pairs, or one source",
            )
    return [
        ((source,), (a,), ((b,),))
        for source, paths in source_at.items()
        for a, b in zip(learner_at, paths if len(paths) > 1 else paths * len(learner_at), strict=True)
    ]


def _joint_pair(
    recipe: Recipe, index: int, objective: DistillationObjective, learner_at: Paths, source_at: dict[str, Paths]
) -> tuple[tuple[str, ...], Paths, tuple[Paths, ...]]:
    path = f"objectives.{index}"
    if ENSEMBLE in source_at:
        raise recipe.error(f"{path}.sources", f"{objective.loss} makes its own mixture of peers; name peers")
    if objective.gate == "correct":
        raise recipe.error(f"{path}.gate", f"{objective.loss} reads its sources together; 'correct' is for one source at a time")
    if any(paths == (LOGITS,) or len(paths) != 1 for paths in (learner_at, *source_at.values())):
        raise recipe.error(f"{path}.at", f"{objective.loss} reads one embedding beside the logits; give its module path")
    return tuple(source_at), (LOGITS, *learner_at), tuple((LOGITS, *paths) for paths in source_at.values())


def _name(objective: Objective) -> str:
    paths = objective.at.values() if isinstance(objective.at, dict) else [objective.at]
    words = dict.fromkeys(path if isinstance(path, str) else ",".join(path) for path in paths)
    at = "-".join(words)
    return objective.loss if at == LOGITS else f"{objective.loss}@{at}"


def distances_key(path: str) -> str:
    """Returns the name under which the distances between the images' outputs at `path` arrive."""
    return f"{path}:distances"
