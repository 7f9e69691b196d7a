"""with_placement: `placement: auto` measures both placements for a few updates and takes the faster."""

from __future__ import annotations

from mutual.engine.benchmark import compare
from mutual.engine.commandline import say
from mutual.group import World
from mutual.recipe import Recipe

ROUNDS = 5


def with_placement(recipe: Recipe, world: World) -> Recipe:
    """Returns `recipe` with a placement that is settled: its own, or where it says auto the one with the shorter updates.

    Every process must call it; all settle on the same.

    Raises:
        RecipeError: the recipe cannot be built.
    """
    if recipe.placement != "auto":
        return recipe
    both = [recipe.model_copy(update={"placement": placement}) for placement in ("replicated", "parallel")]
    if world.size == 1:
        return both[0]
    costs = compare(both, rounds=ROUNDS)
    for cost in costs:
        held = (cost.state_bytes + cost.saved_bytes) / 1e6
        sent = (cost.gradient_bytes + cost.exchange_bytes) / 1e6
        milliseconds = 1e3 * cost.step_seconds
        say(f"placement {cost.placement}: {milliseconds:.1f} ms an update; a process holds {held:.1f} MB and sends {sent:.3f} MB")
    fastest = min(range(len(costs)), key=lambda index: costs[index].step_seconds)
    say(f"placement: {costs[fastest].placement}")
    return both[fastest]
