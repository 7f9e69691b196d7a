"""Each limit of a recipe costs one exact line, before anything is built of what is beyond it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from pair import BASE

from mutual.recipe import RecipeError, load_recipe, parse_recipe
from mutual.recipe.errors import Fault, Origin, format_value
from mutual.recipe.limits import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_FAULTS,
    MAX_OVERRIDE_CHARACTERS,
    MAX_OVERRIDES,
    MAX_RECIPE_BYTES,
    MAX_VALUES,
    Extent,
    LimitError,
    measure,
)
from mutual.recipe.syntax import YamlError, parse_yaml

TOO_DEEP = "more than 32 levels of lists and mappings inside each other; a recipe has fewer"
TOO_MANY_VALUES = "more than 5,000 values, aliases counted with all that they stand for; a recipe has fewer"
TOO_MANY_CHARACTERS = "more than 65,536 characters, aliases counted with all that they stand for; a recipe has fewer"
TOO_MANY_DIGITS = "a whole number of more than 40 digits; a recipe has none"
LAUGHS = "x-0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
MERGES = "x-0: &a0 {a: 1}\n" + "".join(f"x-{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 20))
CHAIN = "x-0: &a0 [x]\n" + "".join(f"x-{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 40))


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(BASE)
    return Path("r.yaml")


def lines_of(load) -> list[str]:
    begun = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load()
    assert time.process_time() - begun < 1
    return str(caught.value).split("\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (LAUGHS, f"line 4, column 31: {TOO_MANY_VALUES}"),
        (MERGES, f"line 5, column 16: {TOO_MANY_VALUES}"),
        (CHAIN, f"line 32, column 13: {TOO_DEEP}"),
        ("x: " + "[" * 200 + "]" * 200, f"line 1, column 36: {TOO_DEEP}"),
        ("x: " + "[" * 50_000, f"line 1, column 36: {TOO_DEEP}"),
        ("- " * 200 + "x", f"line 1, column 65: {TOO_DEEP}"),
        ("? " * 200 + "x", f"line 1, column 65: {TOO_DEEP}"),
        ("".join(" " * depth + "a:\n" for depth in range(200)), f"line 33, column 33: {TOO_DEEP}"),
        ("[" + "x," * 20_000 + "]", f"line 1, column 10000: {TOO_MANY_VALUES}"),
        ("x: &a " + "y" * 700 + "\nz: [" + "*a, " * 100 + "]", f"line 2, column 373: {TOO_MANY_CHARACTERS}"),
        ("x: " + "y" * 70_000, f"line 1, column 4: {TOO_MANY_CHARACTERS}"),
        ("seed: " + "9" * 5_000, f"line 1, column 7: {TOO_MANY_DIGITS}"),
        ("seed: 0b" + "1" * 50, None),  # text
        ("seed: 0x" + "f" * 50, f"line 1, column 7: {TOO_MANY_DIGITS}"),
        ("#" * (MAX_RECIPE_BYTES + 1), "more than 131,072 characters; a recipe has fewer"),
        ("a: *" + "b" * 5_000, f"line 1, column 4: found undefined alias '{'b' * 134}..."),
        ("a: !" + "b" * 5_000 + " c", f"line 1, column 4: a recipe has no tags such as !{'b' * 127}..."),
        ("a: &a {<<: *a}", "line 1, column 12: alias 'a' stands inside its own anchor"),
        ('a: "x\\0y"', "line 1, column 4: character #x0000 is not allowed"),
        ('a: "\\ud800"', "line 1, column 4: character #xd800 is not allowed"),
        ('a: "\\UFFFFFFFF"', "line 1, column 7: there is no character of this number"),
    ],
    ids=lambda value: (value or "")[:20],
)
def test_a_text_beyond_a_limit_is_one_line(text, line):
    begun = time.process_time()
    try:
        parse_yaml(text)
        reported = None
    except YamlError as error:
        reported = str(error)
    assert reported == line
    assert time.process_time() - begun < 1


def test_a_text_at_the_limits_is_read():
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert len(parse_yaml("[" + "x," * (MAX_VALUES - 1) + "]")) == MAX_VALUES - 1
    assert len(parse_yaml("y" * MAX_CHARACTERS)) == MAX_CHARACTERS
    assert parse_yaml("9" * 40) == 10**40 - 1


def test_a_file_beyond_the_limit_is_not_read_to_its_end(file):
    file.write_text("#" * 10_000_000)
    assert lines_of(lambda: load_recipe(file)) == ["r.yaml: more than 131,072 bytes; a recipe has fewer"]
    if os.path.exists("/dev/zero"):  # noqa: PTH110  a device, without an end
        assert lines_of(lambda: load_recipe("/dev/zero")) == ["/dev/zero: more than 131,072 bytes; a recipe has fewer"]
    assert lines_of(lambda: load_recipe("a\0b")) == ["a\\x00b: no file can have this name"]


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["seed=1"] * (MAX_OVERRIDES + 1), ["1,001 overrides; a recipe takes at most 1,000"]),
        (["output=" + "x" * MAX_OVERRIDE_CHARACTERS], ["the overrides have more than 32,768 characters; write them into a recipe"]),
        (["peers.a.args={x: [&a [1, 2, 3, 4], " + "*a, " * 900 + "]}"] * 2, [f"the overrides together have {TOO_MANY_VALUES}"]),
        (["a." * 40 + "b=1"], [f"override {'a.' * 40}b=1: {'a.' * 40}b: more than 32 keys in a path; a recipe has fewer levels"]),
        (["peers.a.args." + "x." * 20 + "x=" + "[" * 20 + "]" * 20], [f"r.yaml: {TOO_DEEP}"]),
        (
            ["objectives.99999999999999999999.loss=kd"],
            [
                "override objectives.99999999999999999999.loss=kd: objectives: "
                "no entry '99999999999999999999' in a list of 1; they are numbered from 0"
            ],
        ),
        (
            ["objectives.\u0663.loss=kd"],
            ["override objectives.\u0663.loss=kd: objectives: no entry '\u0663' in a list of 1; they are numbered from 0"],
        ),
        (["seed=" + "9" * 200], [f"override seed={'9' * 112}...: seed: the value is no YAML: line 1, column 1: {TOO_MANY_DIGITS}"]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_overrides_beyond_a_limit_are_one_line(file, overrides, lines):
    assert lines_of(lambda: load_recipe(file, overrides)) == lines


def test_a_recipe_that_could_not_be_read_again_is_refused(file):
    file.write_text(BASE + "  - {loss: dml}\n" * 127)
    assert load_recipe(file)
    args = "{x: [" + "1, " * 4_000 + "]}"
    assert lines_of(lambda: load_recipe(file, [f"peers.a.args={args}"]))[0].startswith(
        "r.yaml: written out with all its defaults, it cannot be read again: line "
    )


def test_python_values_have_the_same_limits():
    endless: list = []
    endless.append(endless)
    for value, line in ((endless, TOO_DEEP), ({"x": endless}, TOO_DEEP), (10**5000, TOO_MANY_DIGITS), ([1] * 5000, TOO_MANY_VALUES)):
        document = yaml.safe_load(BASE) | {"optimizer": {"args": {"x": value}}}
        assert lines_of(lambda document=document: parse_recipe(document, source="here")) == [f"here: {line}"]
        with pytest.raises(LimitError):
            measure(value)
    assert measure({"a": ["xy", 1]}) == Extent(values=5, characters=3, levels=2)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ("data: {num_classes: 1000000000000}", "data.num_classes: 1000000000000 must be at most 1,000,000"),
        ("data: {image_size: 100000}", "data.image_size: 100000 must be at most 8,192"),
        ("data: {image_size: [8, 100000]}", "data.image_size.1: 100000 must be at most 8,192"),
        ("data: {batch_size: 1000001}", "data.batch_size: 1000001 must be at most 1,000,000"),
        ("data: {workers: 1025}", "data.workers: 1025 must be at most 1,024"),
        ("data: {num_train: 10000000000}", "data.num_train: 10000000000 must be at most 10,000,000"),
        (
            "data: {image_size: 8192}",
            "data.batch_size: 64 images of 8,192 x 8,192 pixels are beyond any memory; take fewer or smaller ones",
        ),
        (
            "{data: {dataset: fake, multi_label: true, num_train: 1000000, num_classes: 1000}, objectives: [{loss: bce}]}",
            "data.num_train: 1,000,000 images with 1,000 flags each are beyond any memory; take fewer",
        ),
        ("data: {augment: [{name: rand_augment, magnitude: 31}]}", "data.augment.0.magnitude: 31 must be at most 30"),
        ("data: {augment: [{name: random_erasing, scale: [1, 0]}]}", "data.augment.0.scale: [1, 0] must begin with the smaller one"),
        ("data: {augment: [{name: random_resized_crop, ratio: [0, 1]}]}", "data.augment.0.ratio.0: 0 must be at least 0.1"),
        ("seed: 18446744073709551616", "seed: 18446744073709551616 must be less than 18,446,744,073,709,551,616"),
        ("optimizer: {lr: 1.0e+38}", "optimizer.lr: 1e+38 must be at most 1,000,000"),
        ("optimizer: {args: {x: [.nan]}}", "optimizer.args.x: holds .nan, which equals nothing, so that no run could be resumed with it"),
        ("train: {epochs: 1000000000}", "train.epochs: 1000000000 must be at most 1,000,000"),
        ("train: {accumulate: 10000000}", "train.accumulate: 10000000 must be at most 1,000,000"),
        ("schedule: {gamma: 2}", "schedule.gamma: 2 must be at most 1"),
        ("schedule: {step_epochs: 1.0e-320}", "schedule.step_epochs: 1e-320 must be at least 0.001"),
        (f"name: {'x' * 201}", f"name: '{'x' * 56}... is too long for the name of a file; take at most 200 letters"),
        ("peers: {" + ", ".join(f"p{n}: {{model: x}}" for n in range(500)) + "}", "peers: 500 peers; a group has at most 8"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_a_number_beyond_any_training_is_one_line(changes, line):
    document = parse_yaml(BASE) | parse_yaml(changes)
    assert lines_of(lambda: parse_recipe(document, source="r.yaml")) == [f"r.yaml: {line}"]


def test_an_objectives_temperature_has_bounds_that_float32_can_take(file):
    for value, bound in (("1e300", "at most 10,000"), ("1e-320", "at least 0.0001")):
        override = f"objectives.0={{loss: kd, temperature: {value}}}"
        assert lines_of(lambda override=override: load_recipe(file, [override])) == [
            f"override {override}: objectives.0.temperature: {float(value)!r} must be {bound}"
        ]


def test_of_very_many_mistakes_the_first_are_reported(file):
    file.write_text(BASE + "".join(f"k{number}: 1\n" for number in range(2_000)))
    lines = lines_of(lambda: load_recipe(file))
    assert len(lines) == MAX_FAULTS + 1
    assert lines[-1] == "there are more mistakes than these 50"


def test_lines_stay_printable_and_short(file):
    file.write_text(BASE + '"new\\nline \\u202e\\x1b": 1\n' + f"{'k' * 900}: 1\n")
    first, second = lines_of(lambda: load_recipe(file))
    assert first.startswith("r.yaml: new\\nline \\u202e\\x1b: unknown key 'new\\nline \\u202e\\x1b'; choose from checkpoint, ")
    assert second.startswith(f"r.yaml: {'k' * 197}...: unknown key '{'k' * 56}...; choose from")
    message = str(Origin("f" * 300).error([Fault("a", "two\n  lines " + "x" * 5000)]))
    assert message.startswith(f"{'f' * 300}: a: two lines xxx")
    assert len(message) < 2_000


def test_a_key_may_be_called_like_pydantics_mark(file):
    file.write_text(BASE + '"[key]": 1\n')
    assert lines_of(lambda: load_recipe(file))[0].startswith("r.yaml: [key]: unknown key '[key]'; choose from")
    file.write_text(BASE.replace("  b: {model: pplcnet_x0_25}", '  "[key]": {model: 3}'))
    assert lines_of(lambda: load_recipe(file)) == ["r.yaml: peers.[key].model: 3 is no text; quotes would make it text"]


def test_show_spells_no_more_than_it_needs():
    endless: dict = {}
    endless["x"] = [endless]
    assert format_value(endless) == "{'x': [" * 8 + "{..."
    assert format_value([None, True, "a", (1, 2.5)]) == "[null, true, 'a', [1, 2.5]]"
    assert format_value(10**5000) == "a number of more than 40 digits"
    assert format_value("x" * 10**7) == f"'{'x' * 56}..."
