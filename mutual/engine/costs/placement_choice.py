"""resolve_placement: placement and costs as the recipe says, as the resumed run has them, or measured."""

from __future__ import annotations

from mutual.commandline import print_main
from mutual.engine.costs.benchmark import PLACEMENTS, MeasuredCost, compare_costs
from mutual.engine.costs.memory import release_memory
from mutual.engine.costs.profiles import profile_peers
from mutual.engine.runtime import Environment
from mutual.engine.training import build_dataset
from mutual.group import needs_costs
from mutual.recipe import Recipe

ROUNDS = 5


def resolve_placement(recipe: Recipe, environment: Environment, saved_recipe: Recipe | None = None) -> Recipe:
    """Replaces `auto` by the faster placement and missing costs by measured ones. Collective: all ranks obtain the same recipe.

    Args:
        recipe: what is trained.
        environment: the ranks of the run.
        saved_recipe: of the run that is resumed; unresolved values come from it.

    Raises:
        RecipeError: the recipe cannot be built.
    """
    if saved_recipe is not None:
        recipe = _with_saved_values(recipe, saved_recipe)
    if environment.comm.size == 1:
        return _with_placement(recipe, "replicated") if recipe.placement == "auto" else recipe
    if recipe.placement != "replicated" and needs_costs(recipe, environment.comm.size):
        recipe = _with_costs(recipe, environment)
    if recipe.placement != "auto":
        return recipe
    candidates = [_with_placement(recipe, placement) for placement in PLACEMENTS]
    costs = compare_costs(candidates, rounds=ROUNDS, predicts=True)
    release_memory(environment.comm.device)
    for cost in costs:
        print_main(_describe(cost))
    fastest = min(range(len(costs)), key=lambda index: costs[index].step_seconds)
    print_main(f"placement: {costs[fastest].placement}")
    return candidates[fastest]


def _with_saved_values(recipe: Recipe, saved_recipe: Recipe) -> Recipe:
    peers = {
        name: peer
        if peer.cost is not None or name not in saved_recipe.peers
        else peer.model_copy(update={"cost": saved_recipe.peers[name].cost})
        for name, peer in recipe.peers.items()
    }
    recipe = recipe.model_copy(update={"peers": peers})
    return _with_placement(recipe, saved_recipe.placement) if recipe.placement == "auto" else recipe


def _with_placement(recipe: Recipe, placement: str) -> Recipe:
    """Returns `recipe` with a placement; where it is replicated, no peer has ranks of its own."""
    update = {"rank": None, "ranks": None} if placement == "replicated" else {}
    peers = {name: peer.model_copy(update=update) for name, peer in recipe.peers.items()}
    return recipe.model_copy(update={"placement": placement, "peers": peers})


def _with_costs(recipe: Recipe, environment: Environment) -> Recipe:
    """Returns `recipe` with measured costs: the microseconds that each peer takes for an image."""
    data = build_dataset(recipe)
    data.close()
    profiles = profile_peers(recipe, environment, data.info)
    release_memory(environment.comm.device)
    batch_size = recipe.data.batch_size
    costs = {name: float(f"{1e6 * profile.seconds(batch_size) / batch_size:.3g}") for name, profile in profiles.items()}
    print_main("costs, microseconds an image: " + ", ".join(f"{name} {cost:g}" for name, cost in costs.items()))
    return recipe.model_copy(update={"peers": {name: peer.model_copy(update={"cost": costs[name]}) for name, peer in recipe.peers.items()}})


def _describe(cost: MeasuredCost) -> str:
    """Returns a line with the measured cost, and in brackets the one predicted from the peers and the link alone."""
    predicted = cost.predicted
    assert predicted is not None, "asked for"
    memory = (cost.state_bytes + cost.saved_bytes) / 1e6
    sent = (cost.gradient_bytes + cost.exchange_bytes) / 1e6
    return (
        f"placement {cost.placement}: {1e3 * cost.step_seconds:.1f} ms an update ({1e3 * predicted.step_seconds:.1f} predicted); "
        f"a process holds {memory:.1f} MB ({predicted.memory_bytes / 1e6:.1f}) "
        f"and sends {sent:.3f} MB ({(predicted.gradient_bytes + predicted.exchange_bytes) / 1e6:.3f})"
    )
