"""Overrides: `key.path=value` on the command line sets a field of a recipe, creating the sections on the way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mutual.recipe.errors import Fault, RecipeError, override_source
from mutual.recipe.limits import MAX_DEPTH, MAX_OVERRIDE_CHARACTERS, MAX_OVERRIDES, Extent, measure
from mutual.recipe.syntax import YamlError, parse_yaml
from mutual.recipe.text import format_value


def apply_overrides(document: dict[str, Any], overrides: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Changes `document` as each of `overrides` says, and returns the key path that each one answers for, with its text.

    That is the path it names, or the first section on the way that was not there before.

    Raises:
        RecipeError: one fault for each override that is none or finds no place, or one where all together are too many or too large.
    """
    if isinstance(overrides, str | Mapping):
        raise RecipeError([Fault("", f"overrides are a list of texts such as ['train.epochs=3'], not a {type(overrides).__name__}")])
    if len(overrides) > MAX_OVERRIDES:
        raise RecipeError([Fault("", f"{len(overrides):,} overrides; a recipe takes at most {MAX_OVERRIDES:,}")])
    if sum(map(len, overrides)) > MAX_OVERRIDE_CHARACTERS:
        raise RecipeError([Fault("", f"the overrides have more than {MAX_OVERRIDE_CHARACTERS:,} characters; write them into a recipe")])
    applied: list[tuple[str, str]] = []
    faults: list[Fault] = []
    total = Extent()
    for text in overrides:
        try:
            path, value = _read(text)
            total += measure(value)
            applied.append((_apply(document, path, value), text))
        except RecipeError as error:
            faults += [replace(fault, source=override_source(text)) for fault in error.faults]
        if total.excess() is not None:
            raise RecipeError([Fault("", f"the overrides together have {total.excess()}")])
    if faults:
        raise RecipeError(faults)
    return tuple(applied)


def _read(text: str) -> tuple[str, Any]:
    """Returns the key path and the value of the override `text`."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise RecipeError([Fault("", "no override; write key.path=value, such as train.epochs=3")])
    if path.count(".") >= MAX_DEPTH:
        raise RecipeError([Fault(path, f"more than {MAX_DEPTH} keys in a path; a recipe has fewer levels")])
    try:
        return path, parse_yaml(value)
    except YamlError as error:
        raise RecipeError([Fault(path, f"the value is no YAML: {error}")]) from error


def _apply(document: dict[str, Any], path: str, value: Any) -> str:
    keys = path.split(".")
    holder: Any = document
    created = ""
    for depth, key in enumerate(keys[:-1]):
        here = ".".join(keys[: depth + 1])
        index = _index_in(holder, key, ".".join(keys[:depth]))
        if isinstance(holder, dict) and holder.get(key) is None:
            holder[key] = {}
            created = created or here
        holder = holder[index]
    holder[_index_in(holder, keys[-1], ".".join(keys[:-1]))] = value
    return created or path


def _index_in(holder: Any, key: str, path: str) -> str | int:
    """Returns what to index `holder` with for `key`; `path` leads to `holder`."""
    if isinstance(holder, dict):
        return key
    if not isinstance(holder, list):
        raise RecipeError([Fault(path, f"{format_value(holder)} is no mapping and has no key {format_value(key)}")])
    index = int(key) if re.fullmatch(r"[0-9]{1,9}", key) else len(holder)
    if index >= len(holder):
        raise RecipeError([Fault(path, f"no entry {format_value(key)} in a list of {len(holder)}; they are numbered from 0")])
    return index
