"""The checks of peers without a head: what may have none, and which edges need the logits that it does not give."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.document import Recipe
from mutual.recipe.edges import EMBEDDING, LOGITS, DistillationObjective, OutputKind, peer_of
from mutual.recipe.errors import Fault
from mutual.recipe.objectives import OBJECTIVES

LOSSES_OF_EMBEDDINGS = sorted(
    name for name, section in OBJECTIVES.items() if issubclass(section, DistillationObjective) and section.reads == "any"
)


def check_heads(recipe: Recipe) -> Iterator[Fault]:
    """Yields the faults of peers with `head: none`, and of the edges that read them."""
    for name, peer in recipe.peers.items():
        if peer.head == "none" and not peer.frozen:
            yield Fault(f"peers.{name}.head", f"peer {name!r} is trained and needs a classifier; 'none' is for one with frozen: true")
        if peer.head == "none" and peer.classes != "auto":
            yield Fault(f"peers.{name}.classes", f"are those of logits, and peer {name!r} has none (head: none); take this away")
        if peer.standardize and peer.head != "none":
            yield Fault(f"peers.{name}.standardize", f"is for an embedding, and peer {name!r} gives logits; set head: none")
    if recipe.headless:
        for index, objective in enumerate(recipe.objectives):
            if isinstance(objective, DistillationObjective):
                yield from _check_objective(recipe, objective, f"objectives.{index}")


def _check_objective(recipe: Recipe, objective: DistillationObjective, where: str) -> Iterator[Fault]:
    for learner in recipe.learners_of(objective):
        members = recipe.members_of(objective, learner)
        sources = {peer_of(source) for source in recipe.sources_of(objective, learner)}
        for name in (name for name in recipe.headless if name in members):
            yield Fault(f"{where}.ensemble.members", f"an ensemble is one of logits, and peer {name!r} has none (head: none); leave it out")
        for name in (name for name in recipe.headless if name in sources):
            yield from _check_source(objective, recipe.reads_of(objective), name, where)


def _check_source(objective: DistillationObjective, reads: OutputKind, name: str, where: str) -> Iterator[Fault]:
    fitting = f"{', '.join(LOSSES_OF_EMBEDDINGS)} read its embedding"
    if reads == "logits":
        yield Fault(
            f"{where}.sources",
            f"{objective.loss} reads logits, and peer {name!r} has none (head: none); name other sources, or take another loss: {fitting}",
        )
        return
    if objective.gate == "correct":
        yield Fault(f"{where}.gate", f"'correct' asks whether a source is right, and peer {name!r} has no logits (head: none)")
    at, key = (objective.at, "at") if objective.source_at is None else (objective.source_at, "source_at")
    path = at.get(name, ()) if isinstance(at, dict) else at
    paths = [path] if isinstance(path, str) else list(path)
    if LOGITS in paths:
        read = f"write source_at: {EMBEDDING}, or a module path" if reads == "any" else "give the path of a module inside it"
        yield Fault(f"{where}.{key}", f"peer {name!r} has no logits (head: none); {read}")
    if EMBEDDING in paths and reads == "maps":
        yield Fault(
            f"{where}.{key}",
            f"{objective.loss} reads feature maps, and the embedding of peer {name!r} is a vector; give the path of a module inside it; "
            f"{fitting}",
        )
