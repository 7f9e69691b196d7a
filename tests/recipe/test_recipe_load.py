"""Recipes from files and dicts: YAML's traps, anchors, files that are none, the round trip, the floor itself."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from pair import BASE

import mutual.recipe.load
from mutual.recipe import ENSEMBLE, PeerSpec, RecipeError, dump_recipe, load_recipe, parse_recipe, peer_of
from mutual.recipe.edges import SOURCE_KINDS
from mutual.recipe.syntax import YamlError, dump_yaml, parse_yaml

REPOSITORY = Path(__file__).parents[2]
RECIPES = sorted((REPOSITORY / "recipes").rglob("*.yaml"))


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "recipe.yaml") -> str:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write


def message_of(*arguments) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4e-5", 4e-5),
        ("4.0e-5", 4e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-1.", -1.0),
        (".inf", math.inf),
        ("1_000", 1000),
        ("-3", -3),
        ("0x10", 16),
        ("010", "010"),
        ("1:30", "1:30"),
        ("1.2.3", "1.2.3"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("yes", True),
        ("no", False),
        ("", None),
        ("~", None),
        ("'4e-5'", "4e-5"),
        ("resnet18", "resnet18"),
    ],
)
def test_plain_yaml_is_typed_by_how_it_looks(text, value):
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  a: 2\n  a: 3\n", "line 4, column 3: key 'a' stands in line 3 already"),
        ("a: 1\nb: [1, 2\n", "line 3, column 1: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("a: *b", "line 1, column 4: found undefined alias 'b'"),
        ("a: &a [*a]", "line 1, column 8: alias 'a' stands inside its own anchor"),
        ("? [a]\n: 1", "line 1, column 3: while constructing a mapping, found unhashable key"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: expected a single document in the stream, but found another document"),
        ("a: !!python/object:os.system {}", "line 1, column 4: a recipe has no tags such as tag:yaml.org,2002:python/object:os.system"),
        ("a: 1\nb: \x07", "line 2: character #x0007 is not allowed"),
    ],
)
def test_bad_yaml_is_one_line_with_its_place(text, message):
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)
    assert str(caught.value) == message


def test_anchors_are_copied_to_each_alias():
    value = parse_yaml("x: &x {list: [1]}\ny: *x\nz: *x\n")
    value["y"]["list"].append(2)
    assert value == {"x": {"list": [1]}, "y": {"list": [1, 2]}, "z": {"list": [1]}}


def test_explicit_key_overrides_a_merged_one_at_every_level():
    value = parse_yaml(
        "x: &x {lr: 1, eps: 2}\ny: &y\n  <<: *x\n  lr: 3\nz:\n  <<: *y\n  eps: 4\nw: {<<: [*z, *x]}\n".replace("z:", "z: &z")
    )
    assert value["y"] == {"lr": 3, "eps": 2}
    assert value["z"] == value["w"] == {"lr": 3, "eps": 4}


def test_top_level_x_keys_hold_anchors_and_drop_out(write):
    recipe = load_recipe(write("x-optimizer: &fast {lr: 4e-5}\n" + BASE + "optimizer: {<<: *fast, momentum: 0.9}\n"))
    assert (recipe.optimizer.lr, recipe.optimizer.momentum) == (4e-5, 0.9)
    assert parse_recipe({"x-anything": 1, **parse_yaml(BASE)}) == load_recipe(write(BASE))


def test_bare_no_is_a_precision(write):
    assert load_recipe(write(BASE + "train: {precision: no}\n")).train.precision == "no"


def test_byte_order_mark_is_no_text(write):
    assert load_recipe(write(b"\xef\xbb\xbf" + BASE.encode())).name == "test"


def test_missing_file_names_the_nearest_recipe(write):
    write(BASE, "dml_pplcnet.yaml")
    assert message_of("dml_pplcnt.yaml") == "dml_pplcnt.yaml: no such file; did you mean 'dml_pplcnet.yaml'?"
    assert message_of("dml_pplcnet") == "dml_pplcnet: no such file; did you mean 'dml_pplcnet.yaml'?"
    assert message_of("recipe/dml.yaml") == "recipe/dml.yaml: no such file; there is no folder 'recipe'"
    assert message_of(".") == ".: a folder, not a recipe; choose from dml_pplcnet.yaml"


def test_unreadable_file_says_why(write):
    assert message_of("n" * 300) == f"{'n' * 300}: cannot be read: File name too long"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: caf\xe9", "recipe.yaml: no UTF-8 text (byte 9); save it as UTF-8"),
        ("", "recipe.yaml: empty; a recipe has at least name, peers and objectives"),
        ("# nothing\n", "recipe.yaml: empty; a recipe has at least name, peers and objectives"),
        ("- a\n", "recipe.yaml: ['a'] is no mapping; a recipe has at least name, peers and objectives"),
        ("name: x\nname: y\n", "recipe.yaml: line 2, column 1: key 'name' stands in line 1 already"),
    ],
)
def test_a_file_that_holds_no_recipe_says_so(write, content, message):
    assert message_of(write(content)) == message


def test_dumped_recipe_loads_equal(write):
    recipe = load_recipe(
        write(
            BASE
            + """\
  - {loss: l2, at: {a: blocks5, b: layer3.1}, sources: [b], learners: [a], weight: 1e-3}
data:
  dataset: fake
  image_size: [24, 32]
  augment: [resize, {name: rotation, degrees: 5}]
  normalize: {mean: [0.5], std: [0.25]}
optimizer:
  name: adamw
  lr: 4e-5
  betas: [0.9, 0.99]
  args: {text: "4e-5", date: "2024-01-01", "no": "no", octal: "010", big: .inf, deep: {list: [{a: null}]}}
train: {precision: no, ema: 0.999}
"""
        )
    )
    again = load_recipe(write(dump_recipe(recipe), "again.yaml"))
    assert again == recipe
    assert again.model_dump() == recipe.model_dump()
    assert dump_recipe(again) == dump_recipe(recipe)


@pytest.mark.parametrize(
    "text", ["\x85\u2028", "a\u2029", "a\n\nb ", " \r\n", "\t", "\ufeffa", "\U0001f600 é", "a \x1b " * 40, "- a: &b", "<<", "=", ""]
)
def test_odd_text_survives_a_dump(text):
    for value in (text, [text], {"key": {text: text}}):
        assert parse_yaml(dump_yaml(value)) == value


def test_dump_says_every_field_in_the_schemas_order():
    recipe = parse_recipe(parse_yaml(BASE))
    dumped = parse_yaml(dump_recipe(recipe))
    assert list(dumped) == list(type(recipe).model_fields)
    for section in ("data", "optimizer", "schedule", "train", "checkpoint"):
        assert list(dumped[section]) == list(type(getattr(recipe, section)).model_fields)


def test_standard_yaml_reads_the_same_values_from_a_dump():
    document = parse_yaml(BASE + "optimizer: {lr: 4e-5, args: {a: '1e5', b: '2024-01-01', c: '1:30'}}")
    dumped = dump_recipe(parse_recipe(document))
    assert yaml.safe_load(dumped) == parse_yaml(dumped)


def test_args_that_no_file_can_hold_are_refused_when_dumped():
    recipe = parse_recipe({**parse_yaml(BASE), "optimizer": {"args": {"function": print}}}, source="here")
    with pytest.raises(RecipeError, match="here: cannot be written to a file"):
        dump_recipe(recipe)


def test_sections_may_be_objects_in_python():
    peers = {"a": PeerSpec(model="pplcnet_x0_25"), "b": {"model": "pplcnet_x0_25"}}
    assert parse_recipe({**parse_yaml(BASE), "peers": peers}) == parse_recipe(parse_yaml(BASE))


def test_higher_floors_name_the_file_or_the_override(write):
    recipe = load_recipe(write(BASE), ["peers.b.model=nope"])
    assert str(recipe.error("peers.a.model", "wrong")) == "recipe.yaml: peers.a.model: wrong"
    assert str(recipe.error("peers.b.model", "wrong")) == "override peers.b.model=nope: peers.b.model: wrong"


@pytest.mark.parametrize("path", RECIPES, ids=[str(path.relative_to(REPOSITORY)) for path in RECIPES])
def test_shipped_recipe_loads(path):
    assert load_recipe(path).trainable


def test_recipe_floor_loads_no_torch():
    code = "import sys, mutual.recipe; sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'accelerate', 'timm')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


@pytest.mark.parametrize("kind", SOURCE_KINDS)
def test_every_kind_of_source_stands_for_peers_or_averages_or_is_an_ensemble(kind):
    document = {"name": "test", "peers": {name: {"model": "small_cnn"} for name in "abc"}, "train": {"ema": 0.9}}
    objectives = [{"loss": "cross_entropy"}, {"loss": "l2", "at": "blocks4", "source_at": "blocks3", "sources": kind}]
    if kind == ENSEMBLE:
        objectives[1] = {"loss": "kd", "sources": kind}
    recipe = parse_recipe({**document, "objectives": objectives})
    sources = recipe.sources_of(recipe.objectives[1], "a")
    assert sources
    assert {peer_of(source) for source in sources} <= {"a", "b", "c"} or sources == (ENSEMBLE,)


# --- from a dict


def document_of_digits():
    return {
        "name": "demo",
        "peers": {"a": {"model": "small_cnn"}, "b": {"model": "small_cnn"}},
        "objectives": [{"loss": "cross_entropy"}, {"loss": "dml", "sources": ("a", "b"), "learners": ("a",)}],
    }


def test_a_dict_is_loaded_as_the_file_that_says_the_same(tmp_path):
    document = {**document_of_digits(), "objectives": [{"loss": "cross_entropy"}, {"loss": "dml"}], "x-note": 1}
    file = tmp_path / "demo.yaml"
    file.write_text(dump_yaml(document))
    overrides = ["train.epochs=3", "peers.a.args.width=8", "objectives.1.weight=0.5"]
    assert load_recipe(document, overrides) == load_recipe(file, overrides)
    assert load_recipe(MappingProxyType(document), overrides) == load_recipe(file, overrides)
    assert document["objectives"] == [{"loss": "cross_entropy"}, {"loss": "dml"}], "overrides change a copy"
    assert "args" not in document["peers"]["a"]


@pytest.mark.parametrize(
    ("change", "overrides", "line"),
    [
        ({"trian": {}}, [], "recipe: trian: unknown key 'trian'; did you mean 'train'?"),
        ({"train": {"epochs": 0}}, [], "recipe: train.epochs: 0 must be greater than 0"),
        ({}, [], "recipe: objectives.1.sources: an edge from 'a' to itself teaches nothing; other peers: b"),
        ({"objectives": [{"loss": "dlm"}]}, [], "recipe: objectives.0.loss: 'dlm' is no loss; did you mean 'dml'?"),
        ({"objectives": [{"loss": "kd"}]}, ["train.epochs=x"], "override train.epochs=x: train.epochs: 'x' is no whole number"),
        ({"objectives": [{"loss": "kd"}]}, ["epochs"], "override epochs: no override; write key.path=value, such as train.epochs=3"),
    ],
)
def test_mistakes_in_a_dict_are_reported_as_those_of_a_file(change, overrides, line):
    with pytest.raises(RecipeError) as caught:
        load_recipe({**document_of_digits(), **change}, overrides)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (None, "recipe: empty; a recipe has at least name, peers and objectives"),
        ([1, 2], "recipe: [1, 2] is no mapping; a recipe has at least name, peers and objectives"),
        (3, "recipe: 3 is no mapping; a recipe has at least name, peers and objectives"),
    ],
)
def test_what_is_no_dict_is_one_line(document, line):
    with pytest.raises(RecipeError) as caught:
        load_recipe(document)
    assert str(caught.value) == line


def test_a_dict_that_holds_itself_is_one_line():
    document = document_of_digits()
    document["data"] = document
    with pytest.raises(RecipeError, match=r"^recipe: more than [0-9,]+ (levels|values)[^\n]*$"):
        load_recipe(document)


def test_the_examples_of_load_recipe_hold():
    assert doctest.testmod(mutual.recipe.load).failed == 0
