"""`key.path=value` reaches every field, is typed as YAML, leaves its neighbours alone and answers for its mistakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from mutual.recipe import (
    OBJECTIVES,
    CheckpointSpec,
    Data,
    Optimizer,
    PeerSpec,
    Recipe,
    RecipeError,
    Schedule,
    Spec,
    Statistics,
    Train,
    check_section,
    load_recipe,
)
from mutual.recipe.edges import SOURCE_KINDS
from mutual.recipe.overrides import apply_overrides
from mutual.recipe.transforms import Transform

TRANSFORMS = get_args(get_args(Transform)[0])
BASE = """\
name: test
peers:
  a: &peer {model: pplcnet_x0_25}
  b: *peer
objectives:
  - {loss: cross_entropy}
  - {loss: dml}
data: {augment: [{name: resize}]}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(BASE)
    return "r.yaml"


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("train.epochs=3", lambda recipe: recipe.train.epochs, 3),
        ("train.ema=0.99", lambda recipe: recipe.train.ema, 0.99),
        ("train.precision=no", lambda recipe: recipe.train.precision, "no"),
        ("train.progress=off", lambda recipe: recipe.train.progress, False),
        ("checkpoint.every_epochs=", lambda recipe: recipe.checkpoint.every_epochs, None),
        ("optimizer.lr=4e-5", lambda recipe: recipe.optimizer.lr, 4e-5),
        ("optimizer.betas=[0.9, 0.99]", lambda recipe: recipe.optimizer.betas, (0.9, 0.99)),
        ("optimizer={name: adam, lr: 1}", lambda recipe: (recipe.optimizer.name, recipe.optimizer.lr), ("adam", 1.0)),
        ("objectives.1.weight=2", lambda recipe: [objective.weight for objective in recipe.objectives], [1.0, 2.0]),
        ("data.augment.0.size=8", lambda recipe: recipe.data.augment[0].size, 8),
        ("peers.a.model=timm/x", lambda recipe: [peer.model for peer in recipe.peers.values()], ["timm/x", "pplcnet_x0_25"]),
        ("peers.c.model=timm/x", lambda recipe: list(recipe.peers), ["a", "b", "c"]),
        ("peers.a.optimizer.lr=1", lambda recipe: recipe.optimizer_of("a").lr, 1.0),
        ("peers.a.args.deep.er=x=y", lambda recipe: recipe.peers["a"].args, {"deep": {"er": "x=y"}}),
    ],
)
def test_override_sets_one_field(file, override, read, value):
    assert read(load_recipe(file)) != value
    assert read(load_recipe(file, [override])) == value


def test_later_overrides_win(file):
    assert load_recipe(file, ["train.epochs=3", "train={accumulate: 2}", "train.log_every=7"]).train == Train(accumulate=2, log_every=7)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.epochs", "no override; write key.path=value, such as train.epochs=3"),
        ("=3", "no override; write key.path=value, such as train.epochs=3"),
        ("train..epochs=3", "no override; write key.path=value, such as train.epochs=3"),
        (
            "train.epochs=a: b: c",
            "train.epochs: the value is no YAML: line 1, column 5: mapping values are not allowed here",
        ),
        ("objectives.2.weight=1", "objectives: no entry '2' in a list of 2; they are numbered from 0"),
        ("objectives.-1.weight=1", "objectives: no entry '-1' in a list of 2; they are numbered from 0"),
        ("objectives.dml.weight=1", "objectives: no entry 'dml' in a list of 2; they are numbered from 0"),
        ("name.x=1", "name: 'test' is no mapping and has no key 'x'"),
        ("train.epoch=3", "train.epoch: unknown key 'epoch'; did you mean 'epochs'?"),
        ("train.epochs=abc", "train.epochs: 'abc' is no whole number"),
        ("train={epochs: abc}", "train.epochs: 'abc' is no whole number"),
        (
            "x-y=1",
            "x-y: unknown key 'x-y'; choose from {sections}",
        ),
        ("peers.c.args.width=1", "peers.c.model: required, but not given"),
        ("objectives.1.sources=[c]", "objectives.1.sources: 'c' is no peer; choose from {sources}"),
    ],
)
def test_a_wrong_override_is_named_in_its_line(file, override, line):
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, [override])
    reported = line.replace("{sections}", ", ".join(sorted(Recipe.model_fields))).replace(
        "{sources}", ", ".join(sorted(["a", "b", *SOURCE_KINDS]))
    )
    assert str(caught.value) == f"override {override}: {reported}"


def test_mistakes_of_the_file_and_of_overrides_are_reported_apart(file):
    Path(file).write_text(BASE + "trian: {}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, ["train.epochs=1", "train.epochs=0", "train.ema=2"])
    assert str(caught.value).splitlines() == [
        "override train.epochs=0: train.epochs: 0 must be greater than 0",
        "override train.ema=2: train.ema: 2 must be less than 1",
        "r.yaml: trian: unknown key 'trian'; did you mean 'train'?",
    ]


def test_all_wrong_overrides_are_reported_together(file):
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, ["train.epochs", "objectives.7.weight=1"])
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["override train.epochs", "override objectives.7.weight=1"]


def every_section() -> Iterator[tuple[str, type[Spec]]]:
    """Key path and class of each section in `full_document`."""
    yield from {
        "": Recipe,
        "data.": Data,
        "data.normalize.": Statistics,
        "peers.a.": PeerSpec,
        "optimizer.": Optimizer,
        "peers.a.optimizer.": Optimizer,
        "schedule.": Schedule,
        "peers.a.schedule.": Schedule,
        "train.": Train,
        "checkpoint.": CheckpointSpec,
    }.items()
    for index, transform in enumerate(TRANSFORMS):
        yield f"data.augment.{index}.", transform
    for index, objective in enumerate(OBJECTIVES.values()):
        yield f"objectives.{index}.", objective


def full_document() -> dict[str, Any]:
    return {
        "name": "test",
        "peers": {"a": {"model": "pplcnet_x0_25"}},
        "objectives": [{"loss": name} for name in OBJECTIVES],
        "data": {
            "normalize": {"mean": [0.5], "std": [0.5]},
            "augment": [
                {
                    key: 1 if key == "degrees" else (field.examples or get_args(field.annotation))[0]
                    for key, field in section.model_fields.items()
                    if field.is_required()
                }
                for section in TRANSFORMS
            ],
        },
    }


def another(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """A valid value of a field, another than its default where there is another."""
    if "$ref" in schema:
        section = definitions[schema["$ref"].rpartition("/")[2]]
        return {key: another(section["properties"][key], definitions) for key in section.get("required", ())}
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return another({**schema[union][0], "default": schema.get("default")}, definitions)
    if "examples" in schema:
        return schema["examples"][0]
    if "const" in schema or "enum" in schema:
        choices = schema.get("enum", [schema.get("const")])
        return next((choice for choice in choices if choice != schema.get("default")), choices[0])
    if schema["type"] == "array":
        return [another(item, definitions) for item in schema.get("prefixItems", [schema.get("items")])]
    if schema["type"] == "object":
        return {"key": another(schema["additionalProperties"], definitions) if isinstance(schema.get("additionalProperties"), dict) else 1}
    return {"boolean": not schema.get("default"), "integer": 7, "number": schema.get("minimum", 0.3), "string": "text"}[schema["type"]]


FIELDS = [(prefix, section, key) for prefix, section in every_section() for key in section.model_fields]


@pytest.mark.parametrize(("prefix", "section", "key"), FIELDS, ids=[prefix + key for prefix, _, key in FIELDS])
def test_every_field_can_be_overridden(prefix, section, key):
    schema = section.model_json_schema()
    value = another(schema["properties"][key], schema.get("$defs", {}))
    document = full_document()
    apply_overrides(document, [f"{prefix}{key}={json.dumps(value)}"])
    found: Any = check_section(Recipe, document).model_dump(mode="json")
    for part in (prefix + key).split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    assert contains(found, value)


def contains(found: Any, value: Any) -> bool:
    """True where `found` is `value`, with the defaults of sections filled in."""
    if isinstance(value, dict):
        return all(contains(found[key], inner) for key, inner in value.items())
    if isinstance(value, list):
        return len(found) == len(value) and all(contains(one, other) for one, other in zip(found, value, strict=True))
    return bool(found in (value, [value]))  # a lone name may stand for a list of one
