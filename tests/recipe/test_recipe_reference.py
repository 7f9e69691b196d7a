"""The reference of recipes: shipped up to date, complete, and made without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mutual.recipe import DATASETS, OBJECTIVES, Recipe, check_section
from mutual.recipe.edges import DistillationObjective
from mutual.recipe.examples import EXAMPLES
from mutual.recipe.reference import TRANSFORMS, reference
from mutual.recipe.syntax import parse_yaml

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "recipes" / "REFERENCE.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", reference(), flags=re.DOTALL)


def test_shipped_reference_is_what_the_command_prints_without_torch():
    code = (
        "import runpy, sys\n"
        "runpy.run_module('mutual.recipe.reference', run_name='__main__')\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=REPOSITORY, capture_output=True, text=True)
    assert SHIPPED.read_text(encoding="utf-8") == printed.stdout, "run: python -m mutual.recipe.reference > recipes/REFERENCE.md"


@pytest.mark.parametrize("section", EXAMPLES)
def test_an_example_says_every_field_and_is_valid(section):
    document = parse_yaml(EXAMPLES[section])
    checked = {"l2": OBJECTIVES["l2"]}[document["loss"]] if section is DistillationObjective else section
    check_section(checked, document)
    assert list(document) == list(section.model_fields)


def test_every_section_of_the_schema_is_in_the_reference():
    named = {section.__name__ for section in (*EXAMPLES, *OBJECTIVES.values(), *TRANSFORMS.values())}
    assert named == {*Recipe.model_json_schema()["$defs"], "Recipe", "DistillationObjective"}


def test_every_loss_transform_and_data_set_is_there_with_all_its_fields():
    text = reference()
    for name, section in {**OBJECTIVES, **TRANSFORMS}.items():
        (chapter,) = re.findall(rf"^### {name}$(.*?)(?=^##)", text + "##", flags=re.MULTILINE | re.DOTALL)
        own = [key for key in section.model_fields if key not in ("name", *DistillationObjective.model_fields)]
        assert re.findall(r"^\| `(\w+)` \|", chapter, flags=re.MULTILINE) == own, name
    for name in DATASETS:
        assert f"| `{name}` |" in text


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.startswith("{")])
def test_the_entries_of_losses_and_transforms_are_valid(block):
    entry = parse_yaml(block)
    section = OBJECTIVES[entry["loss"]] if "loss" in entry else TRANSFORMS[entry["name"]]
    check_section(section, entry)
