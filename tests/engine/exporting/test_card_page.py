"""No name or text of anybody's breaks a model card: neither its front matter nor its tables, blocks or HTML."""

import re

import pytest
import yaml

from mutual.engine.exporting.card_facts import CardFacts, CardScores, ExportedFile, Temperature, lessons
from mutual.engine.exporting.card_page import card_page
from mutual.engine.exporting.latency import Benchmark, Latency
from mutual.engine.exporting.markdown import escape
from mutual.models import ModelCard
from mutual.recipe import parse_recipe

HOSTILE = (
    "a|b",
    "---",
    "x\n---\nlicense: mine",
    "<script>alert(1)</script>",
    "```\n# title",
    "[a](http://b)",
    "*bold* _it_ `code`",
    "a\r\nb",
    "\udc80 byte",
    "&lt;",
    "\u202e turned",
    "'\"\\",
)


def facts(tmp_path, **fields):
    document = {
        "name": "run",
        "data": {"dataset": "digits"},
        "peers": {
            "a": {"model": "small_cnn"},
            "t": {"model": "small_cnn", "frozen": True, "weights": "te|acher\n---\n<b>.safetensors"},
        },
        "objectives": [{"loss": "cross_entropy", "label_smoothing": 0.1}, {"loss": "kd", "weight": 0.5}],
    }
    card = ModelCard(
        "my_models:net",
        len(HOSTILE),
        1,
        image_size=(8, 8),
        mean=(0.5,),
        std=(0.25,),
        class_names=HOSTILE,
        args={"kind": HOSTILE[2], "other": HOSTILE[4]},
        preprocess=[{"name": "resize", "size": [8, 8]}],
        loaded_channels=1,
    )
    given = {
        "run": "run|<i>\n---",
        "peer": "a",
        "card": card,
        "preprocess": card.preprocess,
        "recipe": parse_recipe(document),
        "scores": CardScores("test", 100, {"top1": 0.5, "nll": 1.0, "ece": None}, 3),
        "summary": None,
        "comparison": None,
        "num_parameters": 10,
        "flops": None,
        "files": [
            ExportedFile(tmp_path / "a.safetensors", "safetensors", 1000, 0.0),
            ExportedFile(tmp_path / "a.onnx", "onnx", 1000, 1e-7),
        ],
        "factories": ["my_models:net"],
        "temperature": Temperature(1.5, True, 10, (1.0, 0.5), False),
        "benchmark": Benchmark((Latency("compiled", 1, None, None, 0, HOSTILE[2] + "|"),), 1, "a|b"),
    }
    return CardFacts(**{**given, **fields})


def test_names_end_neither_the_front_matter_nor_a_table_nor_a_block(tmp_path):
    page = card_page(facts(tmp_path)).decode()
    start, front, body = re.split(r"^---$", page, maxsplit=2, flags=re.MULTILINE)
    assert start == ""
    known = yaml.safe_load(front)
    assert "license" not in known
    assert known["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
    assert not re.search(r"^---$", body, re.MULTILINE)
    outside = re.sub(r"^```python\n.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL)
    assert "```" not in outside.replace("\\`", "")
    assert not re.search(r"(?<!\\)[<>]", outside)
    assert not re.search(r"(?<!\\)\]\((?!recipe\.yaml)", outside)
    for rows in re.findall(r"(?:^\|.*\n)+", outside, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1, rows
    headings = re.findall(r"^#+ .*$", outside, re.MULTILINE)
    assert all(heading.startswith("## ") for heading in headings[1:])
    assert re.search(r"\\u202e|202e", body)


def test_the_programs_in_a_card_are_programs_whatever_names_stand_in_it(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", card_page(facts(tmp_path)).decode(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        compile(block, "card", "exec")


def test_what_taught_a_peer_is_told_with_its_settings(tmp_path):
    recipe = facts(tmp_path).recipe
    (loss, source, smoothing), (_, teacher, settings) = lessons(recipe, "a")
    assert (loss, source, smoothing, teacher) == ("cross_entropy", "the labels", "label_smoothing 0.1", "t")
    assert {"temperature 4", "weight 0.5"} <= set(settings.split(", "))
    page = card_page(facts(tmp_path)).decode()
    assert "| t | small\\_cnn | te\\|acher\\\\n---\\\\n\\<b\\>.safetensors | taught only |" in page
    assert "knowledge-distillation" in page
    assert "the programs divide by it" in page


@pytest.mark.parametrize("name", HOSTILE)
def test_an_escaped_name_is_one_line_without_markup(name):
    shown = escape(name)
    assert "\n" not in shown
    assert "\r" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[`*<|\[]", shown)


def test_a_dataset_of_a_hub_is_linked_and_a_folder_is_not(tmp_path):
    def datasets(name):
        recipe = facts(tmp_path).recipe
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"dataset": name})})
        return yaml.safe_load(card_page(facts(tmp_path, recipe=recipe)).decode().split("---")[1]).get("datasets")

    assert datasets("hfds/uoft-cs/cifar10") == ["uoft-cs/cifar10"]
    assert datasets("hfds//home/me/images") is None
    assert datasets("hfds/./images") is None
    assert datasets("digits") is None


def test_images_in_a_folder_are_called_by_its_name(tmp_path):
    """And not `image_folder`, which says nothing to who reads the card."""
    document = {
        "name": "run",
        "data": {"dataset": "image_folder", "root": "photos/of|flowers", "image_size": 8},
        "peers": {"a": {"model": "small_cnn"}},
        "objectives": [{"loss": "cross_entropy"}],
    }
    page = card_page(facts(tmp_path, recipe=parse_recipe(document))).decode()
    assert "trained with mutual on of\\|flowers." in page
    assert "images like those of of\\|flowers;" in page
    assert yaml.safe_load(page.split("---\n")[1])["model-index"][0]["results"][0]["dataset"]["name"] == "of|flowers"
