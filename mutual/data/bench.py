"""How fast images are loaded: `python -m mutual.data.bench RECIPE ... [key.path=value ...] [--images 512] [--rounds 10] [--json]`.

The training images of several recipes are loaded in turn in one process, round by round, every other round in reverse order; a ratio is the
median over the rounds of two times of one round. `images` are loaded as a training does (read, decoded, augmented, batched), `reads` are
their files alone, in the order of the epoch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

from mutual.commandline import print_main, run_command
from mutual.recipe import InputError, Recipe, load_recipe

if TYPE_CHECKING:
    from mutual.data.datasets.splits import EncodedSplit
    from mutual.data.module import DataModule


@dataclass(frozen=True)
class LoadingCost:
    """What loading the images of a recipe takes.

    Attributes:
        name: the recipe's.
        images_per_second: in the median of the rounds.
        ratio: of the first recipe's time for an image to this one's: how many times as fast it is.
        cpu_ratio: the same of the processor's time.
        reads_per_second: files that are read in a second, None where the images are no files.
        read_ratio: of the first recipe's time for a file to this one's, None where the images of either are no files.
    """

    name: str
    images_per_second: float
    ratio: float
    cpu_ratio: float
    reads_per_second: float | None
    read_ratio: float | None


def measure_loading(recipes: Sequence[Recipe], *, images: int, rounds: int) -> list[LoadingCost]:
    """Returns what loading `images` training images of each recipe takes, measured in turn in this process.

    Raises:
        RecipeError: the data of a recipe are missing or do not fit.
    """
    loads, reads = zip(*(_actions(recipe, images) for recipe in recipes), strict=True)
    loaded = _alternate(loads, rounds)
    read = dict(zip([index for index, each in enumerate(reads) if each], _alternate(list(filter(None, reads)), rounds), strict=True))
    return [
        LoadingCost(
            name=recipe.name,
            images_per_second=1 / median(loaded[index].seconds),
            ratio=_ratio(loaded[0].seconds, loaded[index].seconds),
            cpu_ratio=_ratio(loaded[0].cpu_seconds, loaded[index].cpu_seconds),
            reads_per_second=1 / median(read[index].seconds) if index in read else None,
            read_ratio=_ratio(read[0].seconds, read[index].seconds) if {0, index} <= read.keys() else None,
        )
        for index, recipe in enumerate(recipes)
    ]


@dataclass(frozen=True)
class _Times:
    """Seconds for an image in each round, and the processor's."""

    seconds: list[float]
    cpu_seconds: list[float]


def _actions(recipe: Recipe, images: int) -> tuple[Callable[[], int], Callable[[], int] | None]:
    """Returns what loads the next training images of a recipe, at least so many, and what reads their files; each returns how many."""
    from mutual.data.build import build_data  # torch takes seconds to import
    from mutual.data.datasets.readers import read_splits
    from mutual.data.datasets.splits import EncodedSplit

    spec = recipe.data.model_copy(update={"workers": 0})
    try:
        sizes = _loaded_sizes(build_data(spec, seed=recipe.seed))
        split = read_splits(spec, seed=recipe.seed).train
    except ValueError as error:
        raise recipe.error("data", str(error)) from error

    def load() -> int:
        number = 0
        while number < images:
            number += next(sizes)
        return number

    if not isinstance(split, EncodedSplit):
        return load, None
    contents = _contents(split, recipe.seed)

    def read() -> int:
        for _ in range(images):
            next(contents)
        return images

    return load, read


def _loaded_sizes(data: DataModule) -> Iterator[int]:
    """Loads windows, epoch after epoch, and yields how many images each has."""
    epoch = 0
    while True:
        for window in data.train_windows(epoch, world_size=1, shard=(0, 1), accumulate=1):
            yield window.num_samples
        epoch += 1


def _contents(split: EncodedSplit, seed: int) -> Iterator[bytes]:
    from mutual.data.loading.plan import epoch_order

    epoch = 0
    while True:
        yield from map(split.content, epoch_order(len(split.labels), seed=seed, epoch=epoch))
        epoch += 1


def _alternate(actions: Sequence[Callable[[], int]], rounds: int) -> list[_Times]:
    """Returns what each of `actions` takes; a round before those that are measured warms up."""
    times = [_Times([], []) for _ in actions]
    for number in range(rounds + 1):
        for index in range(len(actions))[:: -1 if number % 2 else 1]:
            begun, cpu_begun = time.perf_counter(), time.process_time()
            images = actions[index]()
            if number:
                times[index].seconds.append((time.perf_counter() - begun) / images)
                times[index].cpu_seconds.append((time.process_time() - cpu_begun) / images)
    return times


def _ratio(first: Sequence[float], other: Sequence[float]) -> float:
    return median(a / b for a, b in zip(first, other, strict=True))


def table(costs: Sequence[LoadingCost]) -> str:
    """Returns the costs as lines: a recipe a line."""
    width = max(len(cost.name) for cost in costs)
    lines = [f"{'':{width}} {'images/s':>9} {'ratio':>6} {'cpu ratio':>9} {'reads/s':>9} {'ratio':>6}"]
    for cost in costs:
        read = [
            f"{value:{form}}" if value is not None else "-" for value, form in ((cost.reads_per_second, ".0f"), (cost.read_ratio, ".2f"))
        ]
        loaded = f"{cost.images_per_second:9.0f} {cost.ratio:6.2f} {cost.cpu_ratio:9.2f}"
        lines.append(f"{cost.name:{width}} {loaded} {read[0]:>9} {read[1]:>6}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.data.bench") -> int:
    """Measures and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Measure how fast the training images of recipes are loaded, in turn.")
    parser.add_argument("words", metavar="RECIPE|key.path=value", nargs="+", help="recipes, and fields to set in all of them")
    parser.add_argument("--images", type=int, default=512, help="images of each recipe in a round (the default is 512)")
    parser.add_argument("--rounds", type=int, default=10, help="rounds that are measured (the default is 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    options = parser.parse_intermixed_args(arguments)
    overrides = [word for word in options.words if "=" in word]
    paths = [word for word in options.words if "=" not in word]
    if min(options.images, options.rounds) < 1 or not paths:
        parser.error("give at least one recipe" if not paths else "--images and --rounds must be at least 1")

    def command() -> None:
        recipes = [load_recipe(path, overrides) for path in paths]
        names = [recipe.name for recipe in recipes]
        if len(set(names)) < len(names):
            raise InputError(f"recipes of one name ({', '.join(sorted(names))}) cannot be told apart; give each a name of its own")
        costs = measure_loading(recipes, images=options.images, rounds=options.rounds)
        print_main(json.dumps([asdict(cost) for cost in costs]) if options.json else table(costs))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
