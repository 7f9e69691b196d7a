"""settled: a recipe whose placement, and the costs it asks for, are decided: by the recipe, by the run that is resumed, or measured."""

from __future__ import annotations

import gc

from mutual.commandline import print_main
from mutual.engine.costs.benchmark import Cost, compare
from mutual.engine.costs.profiles import profile_peers
from mutual.engine.runtime import Environment
from mutual.engine.training import build_dataset
from mutual.group import needs_costs
from mutual.recipe import Recipe

ROUNDS = 5
PLACEMENTS = ("replicated", "parallel")


def resolve_placement(recipe: Recipe, environment: Environment, saved_recipe: Recipe | None = None) -> Recipe:
    """Returns `recipe` as it can be built: `auto` is replaced by the placement with the shorter updates, missing costs by measured ones.

    Collective: all ranks obtain the same recipe. When resuming, unresolved values come from `saved_recipe`.

    Raises:
        RecipeError: the recipe cannot be built.
    """
    if saved_recipe is not None:
        recipe = _as_begun(recipe, saved_recipe)
    if environment.comm.size == 1:
        return _placed(recipe, "replicated") if recipe.placement == "auto" else recipe
    if recipe.placement != "replicated" and needs_costs(recipe, environment.comm.size):
        recipe = _with_costs(recipe, environment)
    if recipe.placement != "auto":
        return recipe
    both = [_placed(recipe, placement) for placement in PLACEMENTS]
    costs = compare(both, rounds=ROUNDS, predicts=True)
    gc.collect()  # what was measured is held by reference cycles, and its memory is wanted
    for cost in costs:
        print_main(_describe(cost))
    fastest = min(range(len(costs)), key=lambda index: costs[index].step_seconds)
    print_main(f"placement: {costs[fastest].placement}")
    return both[fastest]


def _as_begun(recipe: Recipe, saved_recipe: Recipe) -> Recipe:
    peers = {
        name: peer
        if peer.cost is not None or name not in saved_recipe.peers
        else peer.model_copy(update={"cost": saved_recipe.peers[name].cost})
        for name, peer in recipe.peers.items()
    }
    recipe = recipe.model_copy(update={"peers": peers})
    return _placed(recipe, saved_recipe.placement) if recipe.placement == "auto" else recipe


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
    print_main("costs, microseconds an image: " + ", ".join(f"{name} {cost:g}" for name, cost in costs.items()))
    return recipe.model_copy(update={"peers": {name: peer.model_copy(update={"cost": costs[name]}) for name, peer in recipe.peers.items()}})


def _describe(cost: Cost) -> str:
    """Returns a line on what was measured, and in brackets what was predicted from the peers and the link alone."""
    predicted = cost.predicted
    assert predicted is not None, "asked for"
    held = (cost.state_bytes + cost.saved_bytes) / 1e6
    sent = (cost.gradient_bytes + cost.exchange_bytes) / 1e6
    return (
        f"placement {cost.placement}: {1e3 * cost.step_seconds:.1f} ms an update ({1e3 * predicted.step_seconds:.1f} predicted); "
        f"a process holds {held:.1f} MB ({predicted.memory_bytes / 1e6:.1f}) "
        f"and sends {sent:.3f} MB ({(predicted.gradient_bytes + predicted.exchange_bytes) / 1e6:.3f})"
    )
