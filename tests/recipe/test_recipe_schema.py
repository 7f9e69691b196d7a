"""The JSON schema that editors use: shipped up to date, and of one mind with the loader."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mutual.recipe import OBJECTIVES, OwnLoss
from mutual.recipe.schema import json_schema
from mutual.recipe.syntax import parse_yaml

REPOSITORY = Path(__file__).parents[2]
SCHEMA = json_schema()
SHIPPED = REPOSITORY / "recipes" / "recipe.schema.json"
GOOD = """\
x-peer: &peer {model: pplcnet_x0_25}
name: test
peers: {a: {<<: *peer, args: {strides: [1, 1, 2, 2, 2]}}, b: *peer}
objectives: [{loss: cross_entropy}, {loss: l2, at: {a: blocks5, b: blocks5}}, {loss: my_losses:huber, args: {beta: 0.1}}]
data: {augment: [center_crop, {name: random_crop, padding: 2}], image_size: [32, 32], normalize: none}
optimizer: {lr: 4e-5, betas: [0.9, 0.99]}
train: {precision: "no", ema: null}
"""


def test_shipped_schema_is_what_the_command_prints_without_a_warning():
    command = [sys.executable, "-W", "error", "-m", "mutual.recipe.schema"]
    printed = subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True)
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == json.loads(printed.stdout), (
        "run: python -m mutual.recipe.schema > recipes/recipe.schema.json"
    )
    assert printed.stderr == ""


def test_every_section_is_described_and_refuses_unknown_keys():
    for name, section in SCHEMA["$defs"].items():
        assert section["description"], name
        assert section.get("additionalProperties") is False or name in ("Objective", "DistillationObjective"), name  # shared by sections


def test_every_field_is_described():
    for name, section in {**SCHEMA["$defs"], "Recipe": SCHEMA}.items():
        for key, field in section["properties"].items():
            assert "description" in field or "const" in field, f"{name}.{key}"


@pytest.mark.parametrize("loss", [*OBJECTIVES.values(), OwnLoss], ids=lambda loss: loss.__name__)
def test_a_losss_own_fields_and_those_it_shares_are_all_of_its_fields(loss):
    section = SCHEMA["$defs"][loss.__name__]
    (shared,) = (SCHEMA["$defs"][base["$ref"].rpartition("/")[2]] for base in section["allOf"])
    (pattern,) = section["patternProperties"]
    assert {key for key in shared["properties"] if re.search(pattern, key)} == set(shared["properties"])
    assert [key for key in loss.model_fields if not re.search(pattern, key)] == list(section["properties"])
    assert {*shared["properties"], *section["properties"]} == set(loss.model_fields)


@pytest.mark.parametrize("recipe", [pytest.param(path, id=path.stem) for path in sorted((REPOSITORY / "recipes").rglob("*.yaml"))])
def test_validator_takes_every_recipe_and_refuses_unknown_keys_in_each_of_its_objectives(recipe):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(SCHEMA)
    document = parse_yaml(recipe.read_text(encoding="utf-8"))
    assert list(validator.iter_errors(document)) == []
    for objective in document["objectives"]:
        for wrong in ({"wieght": 1.0}, {"weight": "heavy"}):
            assert not validator.is_valid({**document, "objectives": [{**objective, **wrong}]})


def test_bare_names_are_those_of_transforms_without_required_arguments():
    array = SCHEMA["$defs"]["Data"]["properties"]["augment"]["anyOf"][0]
    bare = array["items"]["anyOf"][0]["enum"]
    assert "resize" in bare
    assert "rotation" not in bare


def test_anchors_have_a_place_and_other_unknown_sections_have_none():
    assert list(SCHEMA["patternProperties"]) == ["^x-"]
    assert SCHEMA["additionalProperties"] is False
    assert SCHEMA["required"] == ["name", "peers", "objectives"]


def test_validator_takes_good_recipes_and_refuses_bad_ones():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(SHIPPED.read_text(encoding="utf-8")))
    validator.check_schema(validator.schema)
    good = parse_yaml(GOOD)
    assert list(validator.iter_errors(good)) == []
    for bad in (
        {"trian": {}},
        {"train": {"epoch": 3}},
        {"objectives": [{"loss": "dlm"}]},
        {"objectives": [{"loss": "a:b", "beta": 1}]},
        {"data": {"augment": ["rotation"]}},
    ):
        assert list(validator.iter_errors({**good, **bad})), bad
