"""What the page for users of other frameworks says of ours: each setting is a recipe's, each recipe takes its overrides."""

import re
import shlex

import pytest
from support import ROOT
from test_readme import FENCED

from mutual.recipe import load_recipe

TABLES = "\n".join(line for line in FENCED.sub("", (ROOT / "recipes/COMING_FROM.md").read_text()).splitlines() if line.startswith("|"))
CODE = re.compile(r"`([^`]+)`")
SETTINGS = re.compile(r"'?(?:seed|[a-z]+(?:\.\w+)+)=")
"""How a code span of our settings begins: `train.ema=0.9998 seed=1`."""


def ours(beginning):
    """The code spans that begin so, of the columns whose name in a table's first row begins with `here`."""
    position, spans = 0, set()
    for line in TABLES.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        positions = [index for index, cell in enumerate(cells) if cell.startswith("here")]
        position = positions[0] if positions else min(position, len(cells) - 1)
        spans |= {span for span in CODE.findall(cells[position]) if re.match(beginning, span)}
    return sorted(spans)


@pytest.mark.parametrize("span", ours(SETTINGS))
def test_a_setting_is_one_of_a_recipe(span):
    """Of the student, the teacher and the two objectives of kd_pplcnet.yaml; files that are named need not be there."""
    load_recipe(ROOT / "recipes/kd_pplcnet.yaml", shlex.split(span))


@pytest.mark.parametrize("span", ours("recipes/"))
def test_a_recipe_takes_its_overrides(span):
    path, *overrides = shlex.split(span)
    load_recipe(ROOT / path, overrides)


def test_there_are_settings_and_recipes_in_the_page():
    assert len(ours(SETTINGS)) > 25
    assert len(ours("recipes/")) >= 5
