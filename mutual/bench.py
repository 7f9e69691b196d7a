"""Step time, memory and traffic of recipes: `python -m mutual.bench RECIPE ... [key.path=value ...] [--rounds 20] [--json]`.

Several recipes are measured in turn in one process, as ratios to the first, and with `--placements` each in both placements;
overrides hold for all of them. `--predict 8,64,512 --bandwidth 10` measures the peers alone and predicts an update on these
numbers of ranks, which a link of this many GB/s joins, in both placements. `--store` measures for each recipe its students alone, with
their teachers computed, and with these read from a full store. `--floor` measures each recipe beside updates written by hand, and
tells where its time goes, its kernels and its host synchronisations; `--trace FILE` writes a Chrome trace of the first recipe. `--tune`
tries the settings that make an update of each faster, and prints what to set.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mutual.commandline import print_main, run_command
from mutual.recipe import InputError, Recipe, load_recipe

if TYPE_CHECKING:
    from mutual.engine import MeasuredCost, ScalingPrediction

LATENCY = 20e-6
"""Seconds before the first byte of a message, assumed in predictions."""


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.bench") -> int:
    """Measures and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Measure step time and memory of recipes, in turn in one process.")
    parser.add_argument("words", metavar="RECIPE|key.path=value", nargs="+", help="recipes, and fields to set in all of them")
    parser.add_argument("--rounds", type=int, default=20, help="updates of each recipe that are measured (the default is 20)")
    parser.add_argument(
        "--placements", action="store_true", help="measure each recipe replicated and parallel (under torchrun or accelerate)"
    )
    parser.add_argument("--store", action="store_true", help="measure students alone, with teachers computed, and read from a full store")
    parser.add_argument("--floor", action="store_true", help="measure updates written by hand, and where the time of ours goes")
    parser.add_argument("--trace", metavar="FILE", type=Path, help="write a Chrome trace of a few updates of the first recipe")
    parser.add_argument("--tune", action="store_true", help="try the settings that make an update faster, and print what to set")
    parser.add_argument("--predict", metavar="RANKS,...", type=ranks, help="predict both placements on these numbers of ranks")
    parser.add_argument("--bandwidth", type=gigabytes, default=10.0, help="GB/s that a rank then sends (the default is 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    options = parser.parse_intermixed_args(arguments)
    overrides = [word for word in options.words if "=" in word]
    paths = [word for word in options.words if "=" not in word]
    fault = options_fault(options, paths)
    if fault is not None:
        parser.error(fault)

    def command() -> None:
        if options.trace:
            check_new_file(options.trace)
        recipes = [load_recipe(path, overrides) for path in paths]
        from mutual.engine import check_inputs

        for recipe in recipes:
            check_inputs(recipe)
        from mutual.engine import PLACEMENTS, Link, compare_costs, json_text, predict_scaling, store_variants

        if options.tune:
            print_tuning(recipes, as_json=options.json)
            return
        if options.predict:
            link = Link(LATENCY, 1e9 * options.bandwidth)
            predictions = [each for recipe in recipes for each in predict_scaling(recipe, options.predict, link)]
            print_main(json_text([asdict(each) for each in predictions]) if options.json else scaling_table(predictions))
            return
        if options.placements:
            recipes = [load_recipe(path, [*overrides, f"placement={placement}"]) for path in paths for placement in PLACEMENTS]
        with tempfile.TemporaryDirectory() as folder:
            if options.store:
                recipes = [each for number, recipe in enumerate(recipes) for each in store_variants(recipe, Path(folder) / str(number))]
            costs = compare_costs(recipes, rounds=options.rounds, predicts=options.placements, floors=options.floor, trace=options.trace)
        print_main(json_text([asdict(cost) for cost in costs]) if options.json else report(costs))

    return run_command(command)


def options_fault(options: argparse.Namespace, paths: Sequence[str]) -> str | None:
    """Returns what is wrong with the options, or None."""
    if options.rounds < 1:
        return "--rounds must be at least 1"
    if not paths:
        return "give at least one recipe"
    if options.store and (options.placements or options.predict):
        return "--store goes with neither --placements nor --predict"
    if options.floor and (options.placements or options.predict or options.store):
        return "--floor goes with none of --placements, --predict and --store"
    if options.trace and options.predict:
        return "--trace does not go with --predict"
    others = [name for name in ("placements", "predict", "store", "floor", "trace") if vars(options)[name]]
    return f"--tune does not go with --{others[0]}" if options.tune and others else None


def report(costs: Sequence[MeasuredCost]) -> str:
    """Returns the table of the costs and, where floors were measured, that of what updates are made of, with what is to be said of them."""
    if any(cost.floor is None for cost in costs):
        return table(costs)
    return "\n".join([table(costs), "", floor_table(costs), *floor_notes(costs)])


def print_tuning(recipes: Sequence[Recipe], *, as_json: bool) -> None:
    """Measures settings of each recipe and prints what was tried and found."""
    from mutual.engine import json_text, measure_tuning, tuning_table

    results = [measure_tuning(recipe) for recipe in recipes]
    documents = [{**asdict(result), "overrides": result.overrides} for result in results]
    print_main(json_text(documents) if as_json else "\n\n".join(f"{each.name}\n{tuning_table(each)}" for each in results))


def table(costs: Sequence[MeasuredCost]) -> str:
    """Returns the costs as lines: a recipe a line, times in milliseconds, memory and traffic in MB (10^6 bytes)."""
    names = [f"{cost.name} ({cost.placement})" if len({each.placement for each in costs}) > 1 else cost.name for cost in costs]
    width = max(map(len, names))
    head = f"{'step ms':>9} {'ratio':>6} {'state MB':>9} {'saved MB':>9} {'ratio':>6} {'gradients MB':>13} {'exchange MB':>12}"
    floored = any(cost.floor for cost in costs)
    predicted, stored = any(cost.predicted for cost in costs), any(cost.store_bytes for cost in costs)
    head += f" {'/ plain':>8} {'/ joint':>8}" if floored else ""
    lines = [f"{'':{width}} {head}" + (f" {'predicted ms':>13}" if predicted else "") + (f" {'store B/view':>13}" if stored else "")]
    for name, cost in zip(names, costs, strict=True):
        times = f"{1e3 * cost.step_seconds:9.1f} {cost.step_ratio:6.2f}"
        memory = f"{cost.state_bytes / 1e6:9.1f} {cost.saved_bytes / 1e6:9.1f} {cost.memory_ratio:6.2f}"
        line = f"{name:{width}} {times} {memory} {cost.gradient_bytes / 1e6:13.3f} {cost.exchange_bytes / 1e6:12.4f}"
        if cost.floor is not None:
            line += "".join(f" {ratio:8.3f}" for ratio in cost.floor.ratios.values()) + (
                "" if cost.floor.joint_left_out is None else f" {'-':>8}"
            )
        line += f" {1e3 * cost.predicted.step_seconds:13.1f}" if cost.predicted is not None else ""
        lines.append(line + (f" {cost.store_bytes:13}" if stored else ""))
    return "\n".join(lines)


def floor_table(costs: Sequence[MeasuredCost]) -> str:
    """Returns a line for each recipe: ratios of the processor's time, kernels (ours and the floors'), synchronisations, shares of time."""
    floors = [(cost.name, cost.floor) for cost in costs if cost.floor is not None]  # two recipes may have one name
    width = max(len(name) for name, _ in floors)
    spans = list(floors[0][1].shares)
    lines = [
        f"{'':{width}} {'cpu / plain':>11} {'/ joint':>8} {'kernels':>8} {'plain':>6} {'joint':>6} {'syncs':>6}"
        + "".join(f" {span:>9}" for span in spans)
    ]
    for name, floor in floors:
        cpu = [f"{floor.cpu_ratios[key]:.3f}" if key in floor.cpu_ratios else "-" for key in ("plain", "joint")]
        kernels = [str((floor.kernels or {}).get(key, "-")) for key in ("update", "plain", "joint")]
        syncs = "-" if floor.num_host_syncs is None else floor.num_host_syncs
        counts = f"{cpu[0]:>11} {cpu[1]:>8} {kernels[0]:>8} {kernels[1]:>6} {kernels[2]:>6} {syncs:>6}"
        lines.append(f"{name:{width}} {counts}" + "".join(f" {100 * share:7.1f} %" for share in floor.shares.values()))
    return "\n".join(lines)


def floor_notes(costs: Sequence[MeasuredCost]) -> list[str]:
    """Returns what the tables leave out, a line each."""
    notes = []
    for cost in costs:
        if cost.floor is not None and cost.floor.joint_left_out is not None:
            notes.append(f"{cost.name}: no joint step: {cost.floor.joint_left_out}")
        if cost.floor is not None and cost.floor.kernels is None:
            notes.append(f"{cost.name}: compiled, so that neither kernels nor host synchronisations are counted on a CPU")
        notes += [f"{cost.name}: host synchronisation: {sync}" for sync in ([] if cost.floor is None else cost.floor.host_syncs)]
    return notes


def scaling_table(predictions: Sequence[ScalingPrediction]) -> str:
    """Returns predictions as lines: a number of ranks and a placement a line, times in milliseconds, memory and traffic in MB."""
    width = max(len(each.name) for each in predictions)
    lines = [
        f"{'':{width}} {'ranks':>6} {'placement':>10} {'step ms':>9} {'ratio':>6} {'held MB':>9} {'gradients MB':>13} {'exchange MB':>12}"
    ]
    for each in predictions:
        if each.placement == "replicated":  # the first of each number of ranks
            first = each.prediction.step_seconds
        prediction, milliseconds = each.prediction, 1e3 * each.prediction.step_seconds
        step = f"{each.processes:6} {each.placement:>10} {milliseconds:9.1f} {prediction.step_seconds / first:6.2f}"
        traffic = f"{prediction.memory_bytes / 1e6:9.1f} {prediction.gradient_bytes / 1e6:13.3f} {prediction.exchange_bytes / 1e6:12.4f}"
        lines.append(f"{each.name:{width}} {step} {traffic}")
    return "\n".join(lines)


def ranks(text: str) -> list[int]:
    """Returns numbers of ranks, as `8,64` gives them; argparse names this function where it raises ValueError."""
    counts = [int(word) for word in text.split(",")]
    if min(counts) < 1:
        raise ValueError
    return counts


def check_new_file(path: Path) -> None:
    """Refuses a path at which no file can be written, or at which one is.

    Raises:
        InputError: so it is.
    """
    if path.exists():
        raise InputError(f"--trace: {path} is there already; give another path, or move it away")
    if not path.parent.is_dir():
        raise InputError(f"--trace: there is no folder {path.parent}; create it, or give another path")


def gigabytes(text: str) -> float:
    """Returns a positive number; argparse names this function where it raises ValueError."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
