"""group_runs: run folders that exist to the arms of a comparison, by what they were trained with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mutual.engine.comparison.arms import MEAN, SEED_OFFSET, SEEDS_OF_DATA, Arm
from mutual.engine.comparison.comparison_folder import ComparisonFolder
from mutual.engine.comparison.planning import settings_text
from mutual.engine.storage import CHANGES_NO_NUMBERS, MARK, RunFolder
from mutual.recipe import CLASS_WEIGHTS, InputError, Recipe, format_value

_NO_DIFFERENCE = re.compile(
    rf"seed|{CHANGES_NO_NUMBERS}"
    r"|train\.(tune|threads|compile|compile_mode|channels_last|deterministic|cudnn_benchmark)"
    r"|(peers\.\w+\.)?optimizer\.(fused|foreach)"
    r"|peers\.\w+\.(compile|channels_last)"
)
"""Key paths in which runs of one arm may differ: they change no numbers, or the last digits alone."""
_OWN, _OF_PAIR = "of the run", "of its pair"
"""In the place of a seed of the data: the run's own, or that of the run which a run of `a/a` is paired with."""


def find_runs(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Returns the run folders that `paths` name or hold, and notes on those that are left out as they are not finished.

    Raises:
        InputError: a folder is no run's and holds none.
    """
    folders: list[Path] = []
    notes = []
    for path in paths:
        if _is_run(path):
            folders.append(path)
            continue
        inner = sorted((each for each in path.iterdir() if _is_run(each)), key=_natural)
        finished = [each for each in inner if RunFolder(each).read_summary() is not None]
        if not finished:
            what = "holds no finished run" if inner else "is no run folder and holds none"
            raise InputError(f"{path} {what}; give folders that trainings wrote, such as runs/NAME, or folders that hold them")
        notes += [f"{each} is left out: it is not finished" for each in inner if each not in finished]
        folders += finished
    return list({Path(os.path.abspath(each)): each for each in folders}.values()), notes  # noqa: PTH100, links stay


def group_runs(folders: Sequence[Path], *, member: str = MEAN) -> tuple[list[Arm], dict[str, dict[int, Path]]]:
    """Returns the arms that the runs in `folders` make, and by arm and seed the run folder.

    Runs are of one arm where their resolved recipes are the same apart from the seed, name and folder, and from what changes no numbers.
    An arm is called by what the names of its runs have in common without their seeds and, where others are called so, by what differs.

    Raises:
        InputError: a recipe cannot be read, or two runs of an arm have the same seed.
    """
    groups: dict[str, list[tuple[Path, Recipe]]] = {}
    for folder in folders:
        recipe = RunFolder(folder).recipe()
        groups.setdefault(json.dumps(_comparable(recipe), sort_keys=True), []).append((folder, recipe))
    names = _names([[(folder, recipe) for folder, recipe in runs] for runs in groups.values()], [json.loads(key) for key in groups])
    arms, by_seed = [], {}
    for name, runs in zip(names, groups.values(), strict=True):
        seeds: dict[int, Path] = {}
        for folder, recipe in runs:
            if recipe.seed in seeds:
                raise InputError(
                    f"{seeds[recipe.seed]} and {folder} are runs of the same recipe and the same seed {recipe.seed}; give one of them"
                )
            seeds[recipe.seed] = folder
        arms.append(Arm(name=name, recipe=runs[0][1], member=member))
        by_seed[name] = dict(sorted(seeds.items()))
    return arms, by_seed


def choose_seeds(by_seed: Mapping[str, Mapping[int, Path]], baseline: str, wanted: Sequence[int] | None = None) -> list[int]:
    """Returns the seeds that runs are compared by: those `wanted`, or all that there are.

    Raises:
        InputError: an arm shares none with the baseline, by which they could be paired, or has none that is wanted.
    """
    for name, runs in by_seed.items():
        shared = set(runs) & set(by_seed[baseline]) & set(runs if wanted is None else wanted)
        if not shared:
            among = "" if wanted is None else f" among {', '.join(map(str, wanted))}"
            raise InputError(
                f"{name!r} and {baseline!r} have no seed in common{among}, by which they could be paired; {_seeds_of(by_seed)}"
            )
    every = sorted({seed for runs in by_seed.values() for seed in runs})
    return every if wanted is None else list(wanted)


def _seeds_of(by_seed: Mapping[str, Mapping[int, Path]]) -> str:
    return "; ".join(f"{name}: {', '.join(map(str, runs))}" for name, runs in by_seed.items())


def _is_run(path: Path) -> bool:
    return path.is_dir() and ((path / MARK).is_file() or (path / "recipe.yaml").is_file())


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts seed10 behind seed9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _comparable(recipe: Recipe) -> dict[str, Any]:
    """Returns by key path what makes the recipe another one, whatever its seed."""
    document = recipe.resolved().model_dump(mode="json")
    for key in SEEDS_OF_DATA:
        for name, seed in {_OWN: recipe.seed, _OF_PAIR: recipe.seed - SEED_OFFSET}.items():
            if document["data"][key] == seed:
                document["data"][key] = name
    if {_OWN, _OF_PAIR} & {document["data"][key] for key in SEEDS_OF_DATA}:  # classes are counted in the images that a seed has chosen
        for index in recipe.class_weights:
            counted = "data" if recipe.takes_class_fractions(index) else "balanced"
            document["objectives"][index][CLASS_WEIGHTS[recipe.objectives[index].loss]] = counted
    for peer in document["peers"].values():
        peer["weights"] = _without_seed(peer["weights"], recipe.seed)
    return {path: value for path, value in _flat(document) if not _NO_DIFFERENCE.match(path)}


def _without_seed(value: Any, seed: int) -> Any:
    """Returns weights without the seed in their path: each seed of a student may have a teacher of its own."""
    if isinstance(value, dict):
        return {key: _without_seed(entry, seed) for key, entry in value.items()}
    return re.sub(rf"(seed[-_=]?){seed}(?!\d)", r"\1#", value) if isinstance(value, str) else value


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [entry for key, inner in items for entry in _flat(inner, f"{path}.{key}" if path else str(key))]
    return found or [(path, value)]


def _names(groups: Sequence[Sequence[tuple[Path, Recipe]]], contents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a name for each group of runs, no two the same."""
    names = [_common_name(runs) for runs in groups]
    unique = []
    for index, name in enumerate(names):
        twins = [contents[other] for other, each in enumerate(names) if each == name and other != index]
        differing = {
            path: format_value(value, max_length=30).strip("'")
            for path, value in contents[index].items()
            if any(twin.get(path, value) != value for twin in twins)
        }
        differing |= {path: "absent" for twin in twins for path in twin if path not in contents[index] and not differing}
        label = f"{name} {settings_text(dict(list(differing.items())[:3]))}".strip() if twins else name
        unique.append(label if label not in unique else f"{label} ({index + 1})")
    return unique


def _common_name(runs: Sequence[tuple[Path, Recipe]]) -> str:
    """Returns what the names of runs have in common without the seed, or else their peers' models."""
    recipe = runs[0][1]
    arms = {ComparisonFolder(path.parent).arm_of(path.name) for path, _ in runs}
    if len(arms) == 1 and (arm := next(iter(arms))) is not None:
        return arm
    stems = {_without_seed_at_end(path.name, each.seed) for path, each in runs}
    if len(stems) == 1:
        return stems.pop()
    common = os.path.commonprefix(list(stems)).rstrip("-_. ")  # noqa: RUF071, character by character is what is meant
    return common if len(common) > 1 else "+".join(dict.fromkeys(peer.model for peer in recipe.peers.values()))


def _without_seed_at_end(name: str, seed: int) -> str:
    """Returns a run's name without its seed.

    Example:
        >>> _without_seed_at_end("dml_seed3", 3), _without_seed_at_end("dml-s3", 3), _without_seed_at_end("resnet18", 3)
        ('dml', 'dml', 'resnet18')
    """
    return re.sub(rf"(?:[-_.](?:seed|s)?|seed)[-_.=]?(?<!\d){seed}$", "", name) or name
