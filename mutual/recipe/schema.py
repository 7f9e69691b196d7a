"""The JSON schema of recipes, for editors: `python -m mutual.recipe.schema > recipes/recipe.schema.json`.

A first line `# yaml-language-server: $schema=recipe.schema.json` in a recipe makes editors complete and check its keys
(they resolve YAML's merge keys themselves). What needs more than one section is checked by `load_recipe` alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mutual.recipe.document import Recipe
from mutual.recipe.edges import DistillationObjective, Objective
from mutual.recipe.objectives import OBJECTIVES
from mutual.recipe.own_loss import OwnLoss
from mutual.recipe.users_code import USERS_NAME

_WIDTH = 140
_REFERENCE = "#/$defs/"


def json_schema() -> dict[str, Any]:
    """Returns the schema (draft 2020-12) of the YAML that `load_recipe` takes."""
    schema = Recipe.model_json_schema()
    sections = schema["$defs"]
    for key in ("augment", "preprocess"):
        _allow_bare_names(schema, sections["Data"]["properties"][key])
    _allow_users(sections["Data"]["properties"]["augment"])
    losses: list[type[Objective]] = [*OBJECTIVES.values(), OwnLoss]
    for section in losses:
        base = DistillationObjective if issubclass(section, DistillationObjective) else Objective
        sections[base.__name__] = _shared(base, sections[section.__name__])
        sections[section.__name__] = _own(base, sections[section.__name__])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mutual recipe",
        **_concise({key: value for key, value in schema.items() if key not in ("title", "$defs")}),
        "patternProperties": {"^x-": {"description": "A place for YAML anchors; not read."}},
        "$defs": {name: _concise(section) for name, section in sorted(sections.items())},
    }


def to_text(value: Any, indent: str = "") -> str:
    """Returns `value` as JSON in which whatever fits on a line stands on one."""
    line = json.dumps(value)
    if len(indent) + len(line) <= _WIDTH or not isinstance(value, dict | list) or not value:
        return line
    inner = indent + "  "
    if isinstance(value, dict):
        entries = [f"{inner}{json.dumps(key)}: {to_text(entry, inner)}" for key, entry in value.items()]
    else:
        entries = [inner + to_text(entry, inner) for entry in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([opening, ",\n".join(entries), indent + closing])


def _allow_bare_names(schema: dict[str, Any], transforms: dict[str, Any]) -> None:
    """Lets a transform that needs no arguments be written as its name alone."""
    (array,) = (choice for choice in transforms["anyOf"] if choice.get("type") == "array")
    sections = {
        name: schema["$defs"][reference.removeprefix(_REFERENCE)] for name, reference in array["items"]["discriminator"]["mapping"].items()
    }
    bare = [name for name, section in sections.items() if section["required"] == ["name"]]
    array["items"] = {"anyOf": [{"enum": bare}, array["items"]]}


def _allow_users(transforms: dict[str, Any]) -> None:
    """Lets a transform be one of the user's own, by its name alone or with its arguments."""
    (array,) = (choice for choice in transforms["anyOf"] if choice.get("type") == "array")
    name = {"type": "string", "pattern": USERS_NAME}
    array["items"]["anyOf"] += [name, {"type": "object", "properties": {"name": name}, "required": ["name"]}]


def _shared(base: type[Objective], section: dict[str, Any]) -> dict[str, Any]:
    """Returns what the sections of all losses that are a `base` have in common."""
    properties = {key: value for key, value in section["properties"].items() if key in base.model_fields and key != "loss"}
    return {"description": base.__doc__, "type": "object", "properties": properties}


def _own(base: type[Objective], section: dict[str, Any]) -> dict[str, Any]:
    """Returns what belongs to one loss alone, beside a reference to what it shares; both are described, and no key besides is taken."""
    shared = [key for key in section["properties"] if key in base.model_fields and key != "loss"]
    return {
        **section,
        "allOf": [{"$ref": _REFERENCE + base.__name__}],
        "properties": {key: value for key, value in section["properties"].items() if key not in shared},
        "patternProperties": {f"^({'|'.join(sorted(shared))})$": True},
    }


def _concise(schema: Any) -> Any:
    """Returns `schema` without what editors do not read: titles made of keys' names, and OpenAPI's discriminators."""
    if isinstance(schema, list):
        return [_concise(entry) for entry in schema]
    if not isinstance(schema, Mapping):
        return schema
    named = {key: _concise(entry) for key, entry in schema.get("properties", {}).items()}
    rest = {key: _concise(value) for key, value in schema.items() if key not in ("title", "discriminator", "properties")}
    return {**rest, "properties": named} if named else rest


if __name__ == "__main__":
    print(to_text(json_schema()))
