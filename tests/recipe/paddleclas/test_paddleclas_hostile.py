"""Configs that nobody wrote to be trained: each value of another kind is a line, nothing names code, and comments stay comments."""

import copy
import functools
import itertools
import math
import operator
from pathlib import Path

import pytest

from mutual.convert import main
from mutual.recipe import RecipeError, convert_recipe, load_recipe, parse_recipe
from mutual.recipe.paddleclas import convert_config, converted_text
from mutual.recipe.syntax import dump_yaml, parse_yaml
from mutual.recipe.users_code import is_users_name

CONFIGS = Path(__file__).parent / "configs"
WHOLE = ("loss_dml", "loss_rkd", "data_heavy", "data_cifar", "arch_timm_teacher")
"""Few of them, which together have most keys."""
VALUES = [
    *(None, True, "x", "", -1, 0, 10**39, 1e-320, math.inf, math.nan, "1e999/1", "1/0", "9" * 5000),
    *([], {}, [None], [[[]]], [1, []], [math.inf] * 2, {"x": 1}, {1: 2}, {None: None}, {"a\n\x1b[2Jb": 1}),
]
TRANSFORMS = {
    "Resize": {"size": [32, 32]},
    "Normalize": {"std": [0.5, 0.5, 0.5]},
    "RandAugment": {"fillcolor": 128, "magnitude": 5},
    "RandAugmentV2": {"fillcolor": [1, 2, 3]},
    "TimmAutoAugment": {"mean": [0.5]},
    "RandomErasing": {"attempt": 10, "mean": [0.5]},
    "ColorJitter": {"brightness": [0.5, 1.5]},
    "RandomRotation": {"angle": [-10, 10]},
    "GaussianBlur": {"radius_max": 2.0},
}


def nodes(value, path=()):
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from nodes(value[key], (*path, key))


def changed(document, path, value):
    document = copy.deepcopy(document)
    *parents, last = path
    holder = document
    for key in parents:
        holder = holder[key]
    holder[last] = copy.deepcopy(value)
    return document


def converted(document):
    """The recipe, or None, and its text; what there is to say of it is in lines that can be printed."""
    try:
        conversion = convert_config(document, source="theirs.yaml")
        recipe = parse_recipe(conversion.document, source="theirs.yaml")
    except RecipeError as error:
        lines = str(error).split("\n")
        recipe, text = None, ""
    else:
        lines = [*conversion.left_out, *conversion.remarks, *conversion.unneeded]
        text = converted_text(conversion, source="theirs.yaml")
    assert all(line and line.isprintable() for line in lines)
    return recipe, text


def read(name):
    return parse_yaml((CONFIGS / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", WHOLE)
def test_a_value_of_any_kind_at_any_place_is_taken_or_a_line(name):
    document = read(name)
    for index, path in enumerate(nodes(document)):
        for value in VALUES[index % 7 :: 7]:
            converted(changed(document, path, value))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transforms_argument_of_any_kind_is_taken_or_a_line(name):
    document = read("loss_plain_ce")
    document["DataLoader"]["Train"]["dataset"]["transform_ops"].append({name: TRANSFORMS[name]})
    where = ("DataLoader", "Train", "dataset", "transform_ops", -1, name)
    for argument, value in itertools.product(TRANSFORMS[name], VALUES):
        converted(changed(document, (*where, argument), value))


@pytest.mark.parametrize(
    ("name", "path", "value", "line"),
    [
        ("data_heavy", "Train.dataset.transform_ops.1.RandCropImage.interpolation", [], "interpolation: [] is none of pil's"),
        ("loss_dml", "Train.dataset.transform_ops.2.RandFlipImage.flip_code", [], "flip_code: [] is no number"),
        ("loss_dml", "Train.dataset.transform_ops.3.NormalizeImage.scale", 0, "scale: 0 is no factor of pixel values"),
        ("loss_dml", "Train.dataset.transform_ops.3.NormalizeImage.scale", math.nan, "scale: nan is no number"),
        ("loss_dml", "Train.dataset.transform_ops.3.NormalizeImage.std", [0, 0, 0], "std: [0.0, 0.0, 0.0] are no deviations"),
        ("loss_dml", "Train.dataset.transform_ops.0.DecodeImage", {1: 2}, "DecodeImage: the key 1 is no name"),
        ("data_cifar", "Train.dataset.sample_per_label", {}, "sample_per_label: {} is no number"),
    ],
)
def test_a_value_of_another_kind_is_named(name, path, value, line):
    path = ["DataLoader", *(int(key) if key.isdigit() else key for key in path.split("."))]
    with pytest.raises(RecipeError) as caught:
        convert_config(changed(read(name), path, value), source="theirs.yaml")
    assert line in str(caught.value)


def test_a_key_of_the_whole_that_is_no_name_is_named():
    with pytest.raises(RecipeError, match=r"^theirs.yaml: the key null is no name"):
        convert_config({**read("loss_dml"), None: 1}, source="theirs.yaml")


def named_code(recipe):
    """What a recipe may name code in."""
    yield from (peer.model for peer in recipe.peers.values())
    yield from (objective.loss for objective in recipe.objectives)
    yield from (getattr(transform, "name", transform) for transform in recipe.data.augment or ())
    yield recipe.data.dataset
    yield from (recipe.optimizer_of(name).name for name in recipe.trainable)
    yield from (recipe.schedule_of(name).name for name in recipe.trainable)
    yield from recipe.trackers


@pytest.mark.parametrize("name", [*WHOLE, "arch_pplcnet_scales", "rates_adamw_ema", "data_unlabelled"])
def test_no_config_names_code(name):
    """A recipe is the user's own word; a config came with something that was downloaded."""
    document = read(name)
    for path in nodes(document):
        if not isinstance(functools.reduce(operator.getitem, path, document), str):
            continue
        for value in ("mine:Thing", "program:net.pt2", {"mine:Thing": None}):
            recipe, _ = converted(changed(document, path, value))
            for each in named_code(recipe) if recipe else ():
                assert not is_users_name(str(each)), path
                assert not str(each).startswith("program:"), path


def test_a_list_in_a_folder_called_wds_is_a_list():
    document = read("data_unlabelled")
    document["DataLoader"]["UnLabelTrain"]["dataset"]["cls_label_path"] = "wds/list.txt"
    recipe, _ = converted(document)
    assert recipe.data.unlabelled == "./wds/list.txt"


def test_what_a_config_says_stays_in_its_line_of_comment(tmp_path, capsys):
    document = read("loss_dml")
    hostile = "x\npeers: {a: {model: mine:Thing}}\u2028\x1b[2J\x85"
    document["Global"][hostile] = hostile
    document["Global"]["infer" + hostile] = {hostile: [hostile]}
    document["Metric"]["Eval"].append({hostile: None})
    document["Infer"] = {"infer_imgs": f"a; touch {hostile}", "PostProcess": {"name": "Topk", "topk": 1, "class_id_map_file": hostile}}
    path = tmp_path / "theirs.yaml"
    path.write_text(dump_yaml(document))
    conversion = convert_recipe(path)
    lines = converted_text(conversion, source=str(path)).splitlines()
    assert all(line.isprintable() for line in lines)
    assert parse_yaml("\n".join(lines)) == conversion.document
    assert all(line.isprintable() for lines in (conversion.left_out, conversion.remarks, conversion.unneeded) for line in lines)
    assert main(["recipe", str(path)]) == 0
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == len(conversion.left_out)
    assert all(line.isprintable() for line in (out + err).splitlines())


def test_a_command_that_a_config_makes_is_one_command(tmp_path):
    document = read("loss_dml")
    document["Infer"] = {"infer_imgs": "a; rm -r b", "PostProcess": {"name": "Topk", "topk": 3}}
    lines = convert_config(document, source="theirs.yaml").remarks
    assert any("'a; rm -r b' --peer Student --topk 3 predicts" in line for line in lines)


def test_a_hostile_config_is_a_line_where_it_is_trained(tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text(dump_yaml(changed(read("loss_dml"), ("Metric", "Eval"), [{"TopkAcc": {"topk": {}}}])))
    load_recipe(path)
    path.write_text("Arch: {name: os:system}\nLoss: {}\nDataLoader: {}\n")
    with pytest.raises(RecipeError, match=r"Arch.name: 'os:system' is no architecture of PaddleClas' zoo"):
        load_recipe(path)
