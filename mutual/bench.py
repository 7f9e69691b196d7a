"""Step time, memory and traffic of recipes: `python -m mutual.bench RECIPE ... [key.path=value ...] [--rounds 20] [--json]`.

Several recipes are measured in turn in one process, as ratios to the first, and with `--placements` each in both placements;
overrides hold for all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from mutual.engine import Cost, compare, run_verb, say
from mutual.recipe import load_recipe

PLACEMENTS = ("replicated", "parallel")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and returns the exit code."""
    parser = argparse.ArgumentParser(prog="mutual.bench", description="Measure step time and memory of recipes, in turn in one process.")
    parser.add_argument("words", metavar="RECIPE|key.path=value", nargs="+", help="recipes, and fields to set in all of them")
    parser.add_argument("--rounds", type=int, default=20, help="updates of each recipe that are measured (the default is 20)")
    parser.add_argument(
        "--placements", action="store_true", help="measure each recipe replicated and parallel (under torchrun or accelerate)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    options = parser.parse_intermixed_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    overrides = [word for word in options.words if "=" in word]
    paths = [word for word in options.words if "=" not in word]
    if not paths:
        parser.error("give at least one recipe")

    def verb() -> None:
        recipes = [load_recipe(path, overrides) for path in paths]
        if options.placements:
            recipes = [load_recipe(path, [*overrides, f"placement={placement}"]) for path in paths for placement in PLACEMENTS]
        costs = compare(recipes, rounds=options.rounds)
        say(json.dumps([asdict(cost) for cost in costs]) if options.json else table(costs))

    return run_verb(verb)


def table(costs: Sequence[Cost]) -> str:
    """Returns the costs as lines: a recipe a line, times in milliseconds, memory and traffic in MB (10^6 bytes)."""
    names = [f"{cost.name} ({cost.placement})" if len({each.placement for each in costs}) > 1 else cost.name for cost in costs]
    width = max(map(len, names))
    head = f"{'step ms':>9} {'ratio':>6} {'state MB':>9} {'saved MB':>9} {'ratio':>6} {'gradients MB':>13} {'exchange MB':>12}"
    lines = [f"{'':{width}} {head}"]
    for name, cost in zip(names, costs, strict=True):
        times = f"{1e3 * cost.step_seconds:9.1f} {cost.step_ratio:6.2f}"
        memory = f"{cost.state_bytes / 1e6:9.1f} {cost.saved_bytes / 1e6:9.1f} {cost.memory_ratio:6.2f}"
        lines.append(f"{name:{width}} {times} {memory} {cost.gradient_bytes / 1e6:13.3f} {cost.exchange_bytes / 1e6:12.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
