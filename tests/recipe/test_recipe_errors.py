"""Each mistake that the recipe floor can see costs one exact line; all of a recipe's mistakes are told at once."""

from __future__ import annotations

import copy
import re
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

from mutual.recipe import OBJECTIVES, PeerSpec, Recipe, RecipeError, check_section, did_you_mean, parse_recipe
from mutual.recipe.checks import RESERVED_NAMES
from mutual.recipe.faults import faults_of
from mutual.recipe.syntax import parse_yaml

BASE = {
    "name": "test",
    "peers": {"student": {"model": "pplcnet_x0_25"}, "teacher": {"model": "torchvision/resnet18", "frozen": True}},
    "objectives": [{"loss": "cross_entropy"}],
}


def lines_of(changes: str) -> list[str]:
    """The error's lines for the base recipe with other sections; a list of objectives is added to the base's."""
    document = copy.deepcopy(BASE)
    for key, value in parse_yaml(changes).items():
        document[key] = document[key] + value if key == "objectives" and value else value
    with pytest.raises(RecipeError) as caught:
        parse_recipe(document, source="r.yaml")
    return str(caught.value).splitlines()


SCHEMA_MISTAKES = [
    ("objectives: [{loss: my_losses.fn}]", "objectives.1.loss: 'my_losses.fn' is no loss; a loss of yours is named package.module:name"),
    ("objectives: [{loss: 'my:losses:fn'}]", "objectives.1.loss: 'my:losses:fn' names no loss of yours; write package.module:name"),
    ("objectives: [{loss: 'my_losses:fn', args: 3}]", "objectives.1.args: 3 is no mapping"),
    ("objectives: [{loss: 'my_losses:fn', arg: {a: 3}}]", "objectives.1.arg: unknown key 'arg'; did you mean 'args'?"),
    ("objectives: [3]", "objectives.1: 3 is no mapping"),
    ("objectives: [{weight: 3}]", "objectives.1.loss: required, but not given; choose from {losses}"),
    ("train: {epoch: 3}", "train.epoch: unknown key 'epoch'; did you mean 'epochs'?"),
    ("trian: {epochs: 3}", "trian: unknown key 'trian'; did you mean 'train'?"),
    (
        "lr: 3",
        "lr: unknown key 'lr'; choose from checkpoint, data, exchange, extended_from, name, objectives, optimizer, output, "
        "peers, placement, schedule, seed, tracking, train",
    ),
    ("peers: {a: {modle: x, model: y}}", "peers.a.modle: unknown key 'modle'; did you mean 'model'?"),
    ("objectives: [{loss: kd, temprature: 3}]", "objectives.1.temprature: unknown key 'temprature'; did you mean 'temperature'?"),
    (
        "objectives: [{loss: kd, kd: 3}]",
        "objectives.1.kd: unknown key 'kd'; choose from at, ensemble, gate, learners, loss, reduce, reduction, schedule, source_at, "
        "sources, standardize, temperature, weight",
    ),
    ("data: {augment: [{name: resize, siz: 3}]}", "data.augment.0.siz: unknown key 'siz'; did you mean 'size'?"),
    ("peers: {a: {}}", "peers.a.model: required, but not given"),
    ("data: {augment: [rotation]}", "data.augment.0.degrees: required, but not given"),
    ("train: {epochs: abc}", "train.epochs: 'abc' is no whole number"),
    ("train: {epochs: 2.5}", "train.epochs: 2.5 is no whole number"),
    ("train: {epochs: true}", "train.epochs: true is no whole number"),
    ("train: {epochs: '3'}", "train.epochs: '3' is no whole number"),
    ("train: {epochs: 0}", "train.epochs: 0 must be greater than 0"),
    ("train: {ema: 1}", "train.ema: 1 must be less than 1"),
    ("train: {compile: 1}", "train.compile: 1 is neither true nor false"),
    ("train: {precision: fp61}", "train.precision: 'fp61' is no valid precision; did you mean 'fp16'?"),
    ("train: {precision: true}", "train.precision: true is no valid precision; choose from bf16, fp16, no"),
    ("train:", "train: null is no mapping; write its keys, or leave it out"),
    ("optimizer: {lr: fast}", "optimizer.lr: 'fast' is no number"),
    ("optimizer: {lr: '4e-5'}", "optimizer.lr: '4e-5' is no number"),
    ("optimizer: {lr: -1}", "optimizer.lr: -1 must be greater than 0"),
    ("optimizer: {lr: .nan}", "optimizer.lr: nan is no finite number"),
    ("optimizer: {momentum: -0.1}", "optimizer.momentum: -0.1 must be at least 0"),
    ("optimizer: {betas: [0.9]}", "optimizer.betas: [0.9] has too few entries; write 2"),
    ("optimizer: {betas: []}", "optimizer.betas: [] has too few entries; write 2"),
    ("optimizer: {betas: [1, 2, 3]}", "optimizer.betas: [1, 2, 3] has too many entries; write at most 2"),
    ("optimizer: {args: [1]}", "optimizer.args: [1] is no mapping"),
    ("schedule: {milestones: 3}", "schedule.milestones: 3 is no list"),
    ("data: {dataset: digit}", "data.dataset: 'digit' is no valid dataset; did you mean 'digits'?"),
    ("data: {channels: 2}", "data.channels: 2 is no valid channels; choose from 1, 3"),
    ("data: {root: 3}", "data.root: 3 is no text; quotes would make it text"),
    ("data: {image_size: big}", "data.image_size: 'big' is no whole number"),
    ("data: {image_size: -1}", "data.image_size: -1 must be greater than 0"),
    ("data: {image_size: [32]}", "data.image_size: [32] has too few entries; write 2"),
    ("data: {image_size: [1, 2, 3]}", "data.image_size: [1, 2, 3] has too many entries; write at most 2"),
    ("data: {image_size: [32, -2]}", "data.image_size.1: -2 must be greater than 0"),
    ("data: {normalize: autoo}", "data.normalize: 'autoo' is no valid normalize; did you mean 'auto'?"),
    ("data: {normalize: {mean: [0.5], std: [0]}}", "data.normalize.std.0: 0 must be at least 1e-06"),
    ("data: {augment: resize}", "data.augment: 'resize' is no list"),
    ("data: {augment: [3]}", "data.augment.0: 3 is no mapping"),
    ("data: {augment: [flip]}", "data.augment.0: 'flip' is no transform; did you mean 'horizontal_flip' or 'vertical_flip'?"),
    ("data: {augment: [{name: rezise}]}", "data.augment.0.name: 'rezise' is no transform; did you mean 'resize'?"),
    ("data: {augment: [{name: color_jitter, hue: 1}]}", "data.augment.0.hue: 1 must be at most 0.5"),
    ("data: {augment: [{name: random_erasing, scale: [1]}]}", "data.augment.0.scale: [1] has too few entries; write 2"),
    ("objectives: []", "objectives: [] has too few entries; write at least 1"),
    ("objectives: [{loss: dlm}]", "objectives.1.loss: 'dlm' is no loss; did you mean 'dml'?"),
    ("objectives: [{loss: [kd]}]", "objectives.1.loss: ['kd'] is no loss; choose from {losses}"),
    ("objectives: [{weight: 1}]", "objectives.1.loss: required, but not given; choose from {losses}"),
    ("objectives: [kd]", "objectives.1: 'kd' is no mapping"),
    ("objectives: [{loss: kd, temperature: -1}]", "objectives.1.temperature: -1 must be at least 0.0001"),
    ("objectives: [{loss: cross_entropy, label_smoothing: 2}]", "objectives.1.label_smoothing: 2 must be at most 1"),
    ("objectives: [{loss: kd, reduce: men}]", "objectives.1.reduce: 'men' is no valid reduce; did you mean 'mean'?"),
    ("objectives: [{loss: kd, learners: student}]", "objectives.1.learners: 'student' is no list"),
    ("objectives: [{loss: kd, learners: []}]", "objectives.1.learners: [] has too few entries; write at least 1"),
    ("objectives: [{loss: l2, at: 3}]", "objectives.1.at: 3 is no text; quotes would make it text"),
    ("objectives: [{loss: l2, at: {student: 3}}]", "objectives.1.at.student: 3 is no text; quotes would make it text"),
    ("name: my run", "name: 'my run' may hold letters, digits, _, - and . only, and begins with a letter, a digit or _"),
    ("peers: {}", "peers: {} has too few entries; write at least 1"),
    ("peers: {1: {model: x}}", "peers.1: the key 1 is no text; quotes would make it text"),
    ("optimizer: {args: {no: 1}}", "optimizer.args.false: the key false is no text; quotes would make it text"),
    ("peers: [a]", "peers: ['a'] is no mapping"),
]
CROSS_MISTAKES = [
    (
        "objectives: [{loss: kd, learners: [teacher], sources: [student]}]",
        "objectives.1.learners: 'teacher' is frozen and cannot learn; trainable peers: student",
    ),
    (
        "objectives: [{loss: kd, sources: [student]}]",
        "objectives.1.sources: an edge from 'student' to itself teaches nothing; other peers: teacher",
    ),
    ("objectives: [{loss: kd, sources: [techer]}]", "objectives.1.sources: 'techer' is no peer; did you mean 'teacher'?"),
    ("objectives: [{loss: kd, learners: [studnet]}]", "objectives.1.learners: 'studnet' is no peer; did you mean 'student'?"),
    ("objectives: [{loss: kd, sources: [teacher, teacher]}]", "objectives.1.sources: 'teacher' stands there 2 times; once is enough"),
    ("objectives: [{loss: l2, at: {student: blocks5}}]", "objectives.1.at: says nothing of peer 'teacher'; give its module path too"),
    (
        "objectives: [{loss: l2, at: {student: blocks5, teacher: layer3, x: y}}]",
        "objectives.1.at: 'x' is no peer; choose from student, teacher",
    ),
    ("peers: {a: {model: x, frozen: true}}", "peers: every peer is frozen; leave at least one to train"),
    (
        "peers: {a: {model: x}, b: {model: x, frozen: true, optimizer: {lr: 1}}}",
        "peers.b.optimizer: peer 'b' is frozen and has no optimizer; take this away or set frozen: false",
    ),
    (
        "peers: {a: {model: x}, b: {model: x, frozen: true, expect: {top1: 0.5}}}",
        "peers.b.expect: 'b' begins without weights, so that nothing can be expected of it; give it weights",
    ),
    (
        "peers: {a: {model: x, weights: f, expect: {}}}",
        "peers.a.expect: says no metric; images of one class each have top1 and top5",
    ),
    (
        "peers: {a: {model: 'm:f', expect: {map: 0.5}}}",
        "peers.a.expect.map: images of one class each are scored by top1 and top5, not by map",
    ),
    (
        "peers: {a: {model: x, precision: bf16}}",
        "peers.a.precision: belongs to frozen peers, and 'a' is trained; train.precision is that of the run",
    ),
    ("peers: {a: {model: x, forward_batch: 8}}", "peers.a.forward_batch: belongs to frozen peers, and 'a' is trained"),
    (
        "peers: {best: {model: x}}",
        "peers.best: 'best' cannot name a peer; take letters, digits and _, and none of {names}",
    ),
    ("data: {dataset: cifar10}", "data.root: cifar10 needs the folder that holds the data"),
    (
        "data: {dataset: image_list, root: x, val_list: y}",
        "data.train_list: image_list needs a text file with a line `path label` for each image",
    ),
]


@pytest.mark.parametrize(("changes", "line"), SCHEMA_MISTAKES + CROSS_MISTAKES, ids=lambda value: value[:40])
def test_a_mistake_is_one_line(changes, line):
    reported = line.replace("{losses}", ", ".join(sorted(OBJECTIVES))).replace("{names}", ", ".join(RESERVED_NAMES))
    assert lines_of(changes) == [f"r.yaml: {reported}"]


def test_all_mistakes_of_all_sections_are_reported_together():
    changes = "{seed: x, data: {dataset: digit}, objectives: [{loss: dlm}, {loss: kd, temperature: 0}], train: {epoch: 3, ema: 2}, lr: 1}"
    assert [line.split(": ")[1] for line in lines_of(changes)] == [
        "seed",
        "data.dataset",
        "objectives.1.loss",
        "objectives.2.temperature",
        "train.ema",
        "train.epoch",
        "lr",
    ]


def test_all_required_keys_are_reported_together():
    with pytest.raises(RecipeError) as caught:
        parse_recipe({})
    assert str(caught.value).splitlines() == [f"{key}: required, but not given" for key in ("name", "peers", "objectives")]


def test_an_objective_needs_another_peer():
    document = {**BASE, "peers": {"alone": {"model": "x"}}, "objectives": [{"loss": "cross_entropy"}, {"loss": "dml"}]}
    with pytest.raises(
        RecipeError, match=r"objectives\.1: dml needs a source and 'alone' has no other peer; add a peer or drop this objective"
    ):
        parse_recipe(document)


def test_a_peer_that_no_objective_trains_is_reported():
    document = {**BASE, "peers": {"a": {"model": "x"}, "b": {"model": "x"}}, "objectives": [{"loss": "cross_entropy", "learners": ["a"]}]}
    with pytest.raises(RecipeError, match=r"peers\.b: no objective trains 'b'; name it among some learners or set frozen: true"):
        parse_recipe(document)


def test_a_ninth_peer_is_one_too_many():
    document = {**BASE, "peers": {f"p{index}": {"model": "x"} for index in range(9)}}
    with pytest.raises(RecipeError, match="peers: 9 peers; a group has at most 8"):
        parse_recipe(document)


def test_long_values_are_cut_to_stay_on_one_line():
    (line,) = lines_of(f"train: {{epochs: [{'abc, ' * 100}]}}")
    assert line.startswith("r.yaml: train.epochs: ['abc', 'abc', ")
    assert line.endswith("... is no whole number")
    assert len(line) < 120


def test_a_section_by_itself_is_checked_the_same_way():
    arguments = check_section(OBJECTIVES["wsl"], {"loss": "wsl", "temperature": 3}).loss_arguments()
    assert arguments == {"temperature": 3.0}
    with pytest.raises(RecipeError) as caught:
        check_section(OBJECTIVES["kd"], {"loss": "kd", "temperature": -1, "temp": 3})
    assert str(caught.value).splitlines() == [
        "temperature: -1 must be at least 0.0001",
        "temp: unknown key 'temp'; did you mean 'temperature'?",
    ]


def test_did_you_mean_offers_near_names_then_names_that_hold_it_then_all():
    assert did_you_mean("dlm", ["dml", "kd"]) == "; did you mean 'dml'?"
    assert did_you_mean("flip", ["horizontal_flip", "resize"]) == "; did you mean 'horizontal_flip'?"
    assert did_you_mean("xyz", ["kd", "dml"]) == "; choose from dml, kd"
    assert did_you_mean("xyz", [str(index) for index in range(10, 60)]).endswith("40, 41, ...")
    assert did_you_mean("xyz", []) == ""


@pytest.mark.parametrize(
    "location", [(), ("train",), ("train", "epochs"), ("peers", "a", "[key]"), ("objectives", 0, "kd", "at", "x"), ("data", "augment", 0)]
)
@pytest.mark.parametrize("value", [None, {}, [1], "text", PeerSpec(model="x")], ids=repr)
def test_every_kind_of_pydantics_errors_has_a_line(location, value):
    known = {
        "discriminator": "'loss'",
        "tag": "x",
        "expected_tags": "y",
        "expected": "'a' or 'b'",
        "error": ValueError("wrong"),
        "value": "v",
    }
    for kind in get_args(ErrorType):
        context: dict[str, Any] = {}
        while True:  # pydantic says which part of the context is missing
            try:
                error = ValidationError.from_exception_data("Recipe", [{"type": kind, "loc": location, "input": value, "ctx": context}])
                break
            except TypeError as missing:
                name, wanted = re.search(r"'(\w+)' required in context|.*", str(missing))[1], str(missing)
                name = name or re.search(r"'(\w+)'", wanted)[1]
                context[name] = known.get(name, 3) if name not in context else "text"
        for fault in faults_of(error, Recipe, {"objectives": ["x"]}):
            assert fault.message, kind


def test_an_entry_that_is_wrong_does_not_make_a_list_short():
    changes = "{peers: {a: {model: small_cnn, input: {mean: [.nan], std: [0.5, 0.0]}}, b: {model: x, input: {mean: []}}}}"
    assert lines_of(changes) == [
        "r.yaml: peers.a.input.mean.0: nan is no finite number",
        "r.yaml: peers.a.input.std.1: 0.0 must be at least 1e-06",
        "r.yaml: peers.b.input.mean: [] has too few entries; write at least 1",
    ]
