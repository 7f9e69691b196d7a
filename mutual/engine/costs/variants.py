"""store_variants: what a store saves: the students alone, with their teachers computed, and with these read from stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mutual.group import import_own_losses
from mutual.recipe import OBJECTIVES, DistillationObjective, Objective, PeerSpec, Recipe, StoreSpec, peer_of


def store_variants(recipe: Recipe, folder: Path) -> list[Recipe]:
    """Returns three recipes to compare: `NAME-alone`, `NAME-computed` and `NAME-stored`.

    Args:
        recipe: with a frozen peer.
        folder: for the stores of frozen peers that have none of their own.

    Raises:
        RecipeError: no peer is frozen.
    """
    recipe = import_own_losses(recipe)
    frozen = [name for name, peer in recipe.peers.items() if peer.frozen]
    if not frozen:
        raise recipe.error("peers", "none is frozen, so that there is nothing to store")
    trained = {name: peer for name, peer in recipe.peers.items() if not peer.frozen}
    alone = [objective for objective in recipe.objectives if not _reads(recipe, objective, frozen)]
    if not set(recipe.trainable) <= {name for objective in alone for name in recipe.learners_of(objective)}:
        alone.append(OBJECTIVES["cross_entropy"].model_validate({"loss": "cross_entropy"}))
    spec = recipe.stores[next(iter(recipe.stores))] if recipe.stores else StoreSpec(folder="")

    def with_stores(stores: Mapping[str, StoreSpec | None]) -> dict[str, PeerSpec]:
        return {name: peer.model_copy(update={"store": stores[name]} if name in frozen else {}) for name, peer in recipe.peers.items()}

    own = {name: recipe.peers[name].store or spec.model_copy(update={"folder": str(folder / name)}) for name in frozen}
    variants: dict[str, dict[str, object]] = {
        "alone": {"peers": trained, "objectives": alone},
        "computed": {"peers": with_stores(dict.fromkeys(frozen))},
        "stored": {"peers": with_stores(own)},
    }
    return [recipe.model_copy(update={"name": f"{recipe.name}-{variant}", **update}) for variant, update in variants.items()]


def _reads(recipe: Recipe, objective: Objective, frozen: Sequence[str]) -> bool:
    """Returns whether an objective learns from one of the frozen peers."""
    if not isinstance(objective, DistillationObjective):
        return False
    learners = recipe.learners_of(objective)
    sources = {peer_of(source) for learner in learners for source in recipe.sources_of(objective, learner)}
    return not sources.isdisjoint(frozen) or any(not set(recipe.members_of(objective, learner)).isdisjoint(frozen) for learner in learners)
