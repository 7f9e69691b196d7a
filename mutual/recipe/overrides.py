"""Overrides: `key.path=value` on the command line sets a field of a recipe, creating the sections on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mutual.recipe.errors import Fault, RecipeError
from mutual.recipe.faults import show
from mutual.recipe.syntax import YamlError, parse_yaml


def apply_overrides(document: dict[str, Any], overrides: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Changes `document` as each of `overrides` says, and returns the key path that each one answers for, with its text.

    That is the path it names, or the first section on the way that was not there before.

    Raises:
        RecipeError: one fault for each override that is none or finds no place.
    """
    applied: list[tuple[str, str]] = []
    faults: list[Fault] = []
    for text in overrides:
        try:
            applied.append((_apply(document, text), text))
        except RecipeError as error:
            faults += [replace(fault, source=f"override {text}") for fault in error.faults]
    if faults:
        raise RecipeError(faults)
    return tuple(applied)


def _apply(document: dict[str, Any], text: str) -> str:
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise RecipeError([Fault("", "no override; write key.path=value, such as train.epochs=3")])
    try:
        parsed = parse_yaml(value)
    except YamlError as error:
        raise RecipeError([Fault(path, f"the value is no YAML: {error}")]) from error
    holder: Any = document
    created = ""
    for depth, key in enumerate(keys[:-1]):
        here = ".".join(keys[: depth + 1])
        place = _place(holder, key, ".".join(keys[:depth]))
        if isinstance(holder, dict) and holder.get(key) is None:
            holder[key] = {}
            created = created or here
        holder = holder[place]
    holder[_place(holder, keys[-1], ".".join(keys[:-1]))] = parsed
    return created or path


def _place(holder: Any, key: str, path: str) -> str | int:
    """Returns what to index `holder` with for `key`; `path` leads to `holder`."""
    if isinstance(holder, dict):
        return key
    if not isinstance(holder, list):
        raise RecipeError([Fault(path, f"{show(holder)} is no mapping and has no key {key!r}")])
    if not (key.isascii() and key.isdigit() and int(key) < len(holder)):
        raise RecipeError([Fault(path, f"no entry {key!r} in a list of {len(holder)}; they are numbered from 0")])
    return int(key)
