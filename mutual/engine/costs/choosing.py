"""settled: a recipe whose placement, and the costs it asks for, are decided: by the recipe, by the run that is resumed, or measured."""

from __future__ import annotations

import gc

from mutual.commandline import say
from mutual.engine.costs.benchmark import Cost, compare
from mutual.engine.costs.profiles import profile_peers
from mutual.engine.runtime import Environment
from mutual.engine.training import build_dataset
from mutual.group import asks_costs
from mutual.recipe import Recipe

ROUNDS = 5
PLACEMENTS = ("replicated", "parallel")


def settled(recipe: Recipe, environment: Environment, begun: Recipe | None = None) -> Recipe:
    """Returns `recipe` as it can be built: `auto` is replaced by the placement with the shorter updates, missing costs by measured ones.

    Every process must call it; all settle on the same. What `begun`, the recipe of the run that is resumed, says holds on, so that the
    same ranks train the same peers.

    Raises:
        RecipeError: the recipe cannot be built.
    """
    if begun is not None:
        recipe = _as_begun(recipe, begun)
    if environment.world.size == 1:
        return _placed(recipe, "replicated") if recipe.placement == "auto" else recipe
    if recipe.placement != "replicated" and asks_costs(recipe, environment.world.size):
        recipe = _with_costs(recipe, environment)
    if recipe.placement != "auto":
        return recipe
    both = [_placed(recipe, placement) for placement in PLACEMENTS]
    costs = compare(both, rounds=ROUNDS, predicts=True)
    gc.collect()  # what was measured is held by reference cycles, and its memory is wanted
    for cost in costs:
        say(_told(cost))
    fastest = min(range(len(costs)), key=lambda index: costs[index].step_seconds)
    say(f"placement: {costs[fastest].placement}")
    return both[fastest]


def _as_begun(recipe: Recipe, begun: Recipe) -> Recipe:
    peers = {
        name: peer if peer.cost is not None or name not in begun.peers else peer.model_copy(update={"cost": begun.peers[name].cost})
        for name, peer in recipe.peers.items()
    }
    recipe = recipe.model_copy(update={"peers": peers})
    return _placed(recipe, begun.placement) if recipe.placement == "auto" else recipe


def _placed(recipe: Recipe, placement: str) -> Recipe:
    """Returns `recipe` in a placement; replicated, no peer has ranks of its own."""
    shared = {"rank": None, "ranks": None}
    peers = {name: peer.model_copy(update=shared if placement == "replicated" else {}) for name, peer in recipe.peers.items()}
    return recipe.model_copy(update={"placement": placement, "peers": peers})


def _with_costs(recipe: Recipe, environment: Environment) -> Recipe:
    """Returns `recipe` with the microseconds that each peer takes for an image."""
    data = build_dataset(recipe)
    data.close()
    profiles = profile_peers(recipe, environment, data.info)
    images = recipe.data.batch_size
    costs = {name: float(f"{1e6 * profile.seconds(images) / images:.3g}") for name, profile in profiles.items()}
    say("costs, microseconds an image: " + ", ".join(f"{name} {cost:g}" for name, cost in costs.items()))
    return recipe.model_copy(update={"peers": {name: peer.model_copy(update={"cost": costs[name]}) for name, peer in recipe.peers.items()}})


def _told(cost: Cost) -> str:
    """Returns a line on what was measured, and in brackets what was predicted from the peers and the link alone."""
    foreseen = cost.predicted
    assert foreseen is not None, "asked for"
    held = (cost.state_bytes + cost.saved_bytes) / 1e6
    sent = (cost.gradient_bytes + cost.exchange_bytes) / 1e6
    return (
        f"placement {cost.placement}: {1e3 * cost.step_seconds:.1f} ms an update ({1e3 * foreseen.step_seconds:.1f} predicted); "
        f"a process holds {held:.1f} MB ({foreseen.held_bytes / 1e6:.1f}) "
        f"and sends {sent:.3f} MB ({(foreseen.gradient_bytes + foreseen.exchange_bytes) / 1e6:.3f})"
    )
