"""Parent: the run that a run goes on from or has its weights of, and what their recipes differ in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutual.engine.storage import BEST, LAST, RunFolder
from mutual.recipe import Recipe, format_value

_MEANINGLESS = re.compile(
    r"name|seed|output|extended_from|data\.(workers|prefetch|decoded)|train\.(threads|progress|log_every|timeout_seconds|tune_seconds)"
    r"|peers\.\w+\.(cost|store\.folder)"
)
"""Key paths whose values say nothing of what was trained."""
_MAX_LENGTH = 200
"""Characters of a value that are shown."""
_ABSENT = object()


def parent_of(recipe: Recipe) -> Path | None:
    """Returns the folder of the run that `recipe` goes on from, or that trained peers have their weights of; None where there is none."""
    if recipe.extended_from is not None:
        return Path(recipe.extended_from.run)
    files = [spec.file for name in recipe.trainable if (spec := recipe.peers[name].weights_file) is not None]
    folders = [Path(file).parent.parent for file in files if Path(file).parent.name in (BEST, LAST)]
    return next((folder for folder in folders if (folder / "recipe.yaml").is_file()), None)


def recipe_changes(parent: RunFolder, recipe: Recipe) -> list[tuple[str, str, str]]:
    """Returns where `recipe` differs from that of its parent: key path, value there, value here; an empty value is none.

    Raises:
        InputError: the parent's folder is no run folder, or its recipe was changed.
    """
    there, here = parent.recipe().model_dump(mode="json"), recipe.model_dump(mode="json")
    return [(path, _shown(old), _shown(new)) for path, old, new in _differences(there, here, "")]


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yields key path, old and new value of the smallest sections that differ."""
    if _MEANINGLESS.fullmatch(path) or old == new:
        return
    if isinstance(old, list) and isinstance(new, list) and _is_listed(old) and _is_listed(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield path, old, new
        return
    for key in dict.fromkeys([*old, *new]):
        yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{path}.{key}" if path else str(key))


def _is_listed(entries: list[Any]) -> bool:
    """Returns whether a list is one of sections, such as the objectives."""
    return all(isinstance(entry, dict) for entry in entries)


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return ""
    return format_value(_given(value), max_length=_MAX_LENGTH)


def _given(value: Any) -> Any:
    """Returns a section without what is null or empty in it: of a peer or an objective that is there on one side alone."""
    if isinstance(value, dict):
        return {key: _given(entry) for key, entry in value.items() if entry not in (None, [], {}, False)}
    return value
