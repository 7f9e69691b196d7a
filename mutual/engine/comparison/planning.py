"""plan_arms: recipes and overrides to the arms of a comparison; parse_seeds: what `--seeds` says."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mutual.engine.comparison.arms import MEAN, Arm
from mutual.recipe import InputError, Recipe, format_value, load_recipe, printable

DEFAULT_SEEDS = "0:6"
"""The fewest of which a difference can be shown."""
MAX_ARMS, MAX_SEEDS = 64, 1_000
_MAX_NAME = 80  # characters: of a folder's name, which has the seed behind it
_OPTION_OF = {"seed": "--seeds 0:6", "name": "--name NAME", "output": "--output FOLDER"}
"""By field that a comparison sets for each run what the user says instead."""


def parse_seeds(text: str) -> list[int]:
    """Returns seeds: `0:6` is 0 to 5, `0,3,7` and `5` are what they say.

    Raises:
        InputError: it says none, or one twice.

    Example:
        >>> parse_seeds("0:3,7")
        [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?::\s*(\d{1,18})\s*)?", part)
        if match is None:
            raise InputError(f"--seeds: {format_value(text)} are no seeds; write 0:6 for 0 to 5, or 0,3,7")
        first, end = int(match[1]), int(match[2] if match[2] is not None else match[1]) + (match[2] is None)
        if not 0 < end - first <= MAX_SEEDS or len(seeds) + end - first > MAX_SEEDS:
            raise InputError(f"--seeds: {format_value(text)} are none or more than {MAX_SEEDS:,}; write 0:6 for 0 to 5")
        seeds += range(first, end)
    twice = [seed for seed, count in Counter(seeds).items() if count > 1]
    if twice:
        raise InputError(f"--seeds: {twice[0]} stands twice in {format_value(text)}")
    return seeds


def plan_arms(paths: Sequence[str], overrides: Sequence[str] = (), *, member: str = MEAN) -> list[Arm]:
    """Returns an arm for each recipe and, where overrides are lists, for each of their values.

    An override holds for all recipes. Commas outside of brackets and quotation marks separate values of which each makes an arm
    (`objectives.1.temperature=1,2,4`); several such lists make their product. What stands in brackets, braces or quotation marks is one
    value (`data.augment=[flip]`), and `optimizer.betas=[0.9,0.99],[0.8,0.9]` are two.

    Args:
        paths: the recipe files.
        overrides: `key.path=value`.
        member: whose scores count.

    Raises:
        InputError: a recipe or an override is wrong, or the arms are too many.
    """
    fixed, varied = split_overrides(overrides)
    combinations = list(itertools.islice(itertools.product(*varied.values()), MAX_ARMS + 1))
    if len(paths) * len(combinations) > MAX_ARMS:
        raise InputError(f"the recipes and the lists of values make more than {MAX_ARMS} arms; compare fewer at a time")
    labels = _short_labels(list(varied))
    arms = []
    for path, values in itertools.product(paths, combinations):
        recipe = load_recipe(path, [*fixed, *(f"{key}={value}" for key, value in zip(varied, values, strict=True))])
        name = " ".join([recipe.name, *(f"{labels[key]}={value}" for key, value in zip(varied, values, strict=True))])
        arms.append(Arm(name=name, recipe=recipe, member=member))
    return _with_unique_names(arms)


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Returns the overrides with one value, and by key path the values of those with several.

    Raises:
        InputError: a value is missing or stands twice, or the comparison sets this field itself.

    Example:
        >>> split_overrides(["train.epochs=3", "objectives.1.temperature=1,2", "optimizer.betas=[0.9,0.99]"])
        (['train.epochs=3', 'optimizer.betas=[0.9,0.99]'], {'objectives.1.temperature': ['1', '2']})
    """
    fixed: list[str] = []
    varied: dict[str, list[str]] = {}
    for text in overrides:
        path, _, value = text.partition("=")
        if path in _OPTION_OF:
            raise InputError(f"{printable(text)}: a comparison sets the {path} of its runs; give {_OPTION_OF[path]}")
        values = [part.strip() for part in _split_at_commas(value)]
        if len(values) == 1:
            fixed.append(text)
            continue
        if path in varied or not all(values) or len(set(values)) < len(values):
            raise InputError(
                f"{printable(text)}: each of the values between commas makes an arm, and one is empty or given twice; write "
                f"{printable(path)}=1,2 for two arms, or the value in quotation marks or brackets where the commas belong to it"
            )
        varied[path] = values
    return fixed, varied


def folder_name(text: str) -> str:
    """Returns `text` as a name that a folder and a recipe may have.

    Example:
        >>> folder_name("dml temperature=4"), folder_name("a/a")
        ('dml-temperature-4', 'a-a')
    """
    return re.sub(r"[^\w.]+", "-", text).strip("-.")[:_MAX_NAME] or "arm"


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """Returns by arm's name one that a folder may have; no two are the same, whatever the file system makes of upper case."""
    taken: dict[str, str] = {}
    for name in names:
        free = (f"{folder_name(name)}{'' if number == 1 else f'-{number}'}" for number in itertools.count(1))
        taken[name] = next(each for each in free if each.lower() not in {other.lower() for other in taken.values()})
    return taken


def default_name(arms: Sequence[Arm]) -> str:
    """Returns what a comparison of these arms is called: by their recipes, so that the same command line finds it again."""
    return folder_name(f"compare_{'_vs_'.join(dict.fromkeys(arm.recipe.name for arm in arms))}")


def find_arm(arms: Sequence[Arm], name: str) -> Arm | None:
    """Returns the arm that is called so, or whose folders are."""
    return next((arm for arm in arms if name in (arm.name, folder_name(arm.name))), None)


def _split_at_commas(value: str) -> list[str]:
    """Returns the parts between commas that stand outside of brackets, braces and quotation marks."""
    parts, depth, quote = [""], 0, ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not parts[-1].strip():
            quote = character
        depth += (character in "[{") - (character in "]}") if not quote else 0
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _short_labels(paths: Sequence[str]) -> dict[str, str]:
    """Returns by key path the shortest end of it that no other has and that is no number.

    Example:
        >>> _short_labels(["objectives.1.temperature", "optimizer.lr"])
        {'objectives.1.temperature': 'temperature', 'optimizer.lr': 'lr'}
    """
    labels = {}
    for path in paths:
        keys = path.split(".")
        ends = [".".join(keys[start:]) for start in reversed(range(len(keys)))]
        others = [other for other in paths if other != path]
        labels[path] = next((end for end in ends if not end.isdecimal() and not any(f".{o}".endswith(f".{end}") for o in others)), path)
    return labels


def _with_unique_names(arms: Sequence[Arm]) -> list[Arm]:
    """Returns the arms, those of one name with their file's in addition.

    Raises:
        InputError: two arms are the same.
    """
    counts = Counter(arm.name for arm in arms)
    renamed: dict[str, Arm] = {}
    for arm in arms:
        name = arm.name
        if counts[name] > 1:
            twin = next((other for other in renamed.values() if _same(other.recipe, arm.recipe)), None)
            if twin is not None:
                raise InputError(f"{arm.recipe.origin.file} and {twin.recipe.origin.file} are the same recipe; give each once")
            name = f"{Path(arm.recipe.origin.file).stem}{name.removeprefix(arm.recipe.name)}"
        name = next(each for each in itertools.chain([name], (f"{name} {n}" for n in itertools.count(2))) if each not in renamed)
        renamed[name] = Arm(name=name, recipe=arm.recipe, member=arm.member)
    return list(renamed.values())


def _same(recipe: Recipe, other: Recipe) -> bool:
    return dict(recipe) == dict(other)


def settings_text(values: Mapping[str, str]) -> str:
    """Returns values of fields as the end of an arm's name: `temperature=4 lr=0.1`."""
    labels = _short_labels(list(values))
    return " ".join(f"{labels[path]}={value}" for path, value in values.items())
