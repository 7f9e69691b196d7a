"""`mutual.init` on names and cards that others chose: they choose nothing of the recipe, and nothing of anybody's is replaced."""

import os
from pathlib import Path

import pytest
import torch
import yaml

from mutual import init
from mutual.data.survey import Survey
from mutual.engine import drafting
from mutual.models import ModelCard, model_bytes
from mutual.recipe import InputError, parse_recipe

ROOTS = ["a\nobjectives: []", "a\x85seed: 3", "a\u2028b: c", "a: {b}", "# x", "'q\"", "- a", "!!python/name:os.system", "\udcff"]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("folder", [".", "x\nseed: 3", "x\u2028seed: 3", "\udcff"])
def test_names_of_folders_are_nothing_but_names_in_a_recipe(root, folder, tmp_path):
    found = Survey(
        fields={"dataset": "image_folder", "root": root, "val": 0.15},
        num_images={"train": 30, "val": 5},
        class_sizes={root: 25, "b": 5},
        image_size=(40, 40),
        channels=3,
        num_read=5,
        bad={root: root},
    )
    document = drafting._document(found, "mine", 32, None, None)
    text = drafting._text(document, found, Path(folder) / "mine.yaml", None)
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text(encoding="utf-8")) == document


@pytest.mark.parametrize("args", [{"pretrained": True}, {"checkpoint_path": "elsewhere.pth"}])
def test_a_card_of_a_teacher_brings_no_weights_from_elsewhere(args, tmp_path):
    card = ModelCard("timm/resnet18", 2, 3, (32, 32), (0.0,) * 3, (1.0,) * 3, ("cat", "dog"), args)
    (tmp_path / "t.safetensors").write_bytes(model_bytes(torch.nn.Linear(1, 1), card))
    with pytest.raises(InputError, match=f"--teacher .*sets '{next(iter(args))}', which says where weights come from; a file may not"):
        drafting._teacher(str(tmp_path / "t.safetensors"))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null"), lambda path: path.symlink_to("gone")])
def test_what_is_no_file_is_not_overwritten(make, tmp_path):
    make(tmp_path / "mine.yaml")
    with pytest.raises(InputError, match=r"mine.yaml is there already, and no file; give another --output"):
        init.write_recipe(tmp_path / "mine.yaml", "name: x\n", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_overwriting_a_link_leaves_the_file_that_it_names(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "mine.yaml").symlink_to("precious")
    init.write_recipe(tmp_path / "mine.yaml", "name: x\n", overwrite=True)
    assert [(tmp_path / name).read_text() for name in ("precious", "mine.yaml")] == ["precious", "name: x\n"]


def test_a_file_that_came_while_images_were_read_is_not_overwritten(tmp_path):
    (tmp_path / "mine.yaml").write_text("precious")
    with pytest.raises(InputError, match=r"mine.yaml is there already; give another --output, or --overwrite"):
        init.write_recipe(tmp_path / "mine.yaml", "name: x\n", overwrite=False)
    assert (tmp_path / "mine.yaml").read_text() == "precious"


@pytest.mark.parametrize("name", ["my recipe.yaml", ".yaml", "--x.yaml", "a=b", "\udcff.yaml"])
def test_any_name_of_a_file_gives_a_run_a_name(name):
    objectives = [{"loss": "cross_entropy"}]
    assert parse_recipe({"name": drafting._run_name(Path(name)), "peers": {"a": {"model": "small_cnn"}}, "objectives": objectives})
