"""The JSON schema of recipes, for editors: `python -m mutual.recipe.schema > recipes/recipe.schema.json`.

A first line `# yaml-language-server: $schema=recipe.schema.json` in a recipe makes editors complete and check its keys
(they resolve YAML's merge keys themselves). What needs more than one section is checked by `load_recipe` alone.
"""

from __future__ import annotations

import json
from typing import Any

from mutual.recipe.document import Recipe


def json_schema() -> dict[str, Any]:
    """Returns the schema (draft 2020-12) of the YAML that `load_recipe` takes."""
    schema = Recipe.model_json_schema()
    for key in ("augment", "preprocess"):
        _allow_bare_names(schema, schema["$defs"]["Data"]["properties"][key])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mutual recipe",
        **{key: value for key, value in schema.items() if key != "title"},
        "patternProperties": {"^x-": {"description": "A place for YAML anchors; not read."}},
    }


def _allow_bare_names(schema: dict[str, Any], transforms: dict[str, Any]) -> None:
    """Lets a transform that needs no arguments be written as its name alone."""
    (array,) = (choice for choice in transforms["anyOf"] if choice.get("type") == "array")
    sections = {
        name: schema["$defs"][reference.rpartition("/")[2]] for name, reference in array["items"]["discriminator"]["mapping"].items()
    }
    bare = [name for name, section in sections.items() if section["required"] == ["name"]]
    array["items"] = {"anyOf": [{"enum": bare}, array["items"]]}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
