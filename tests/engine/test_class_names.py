"""Classes are known by their names: folders that are renamed or stand in another order are mapped or refused, never miscounted."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
import yaml
from PIL import Image
from support import tiny_document

import mutual
from mutual import evaluate, train
from mutual.engine.storage.run_folder import RunFolder
from mutual.models import model_bytes, read_model
from mutual.recipe import RecipeError, parse_recipe

SHADES = {"ant": 20, "bee": 110, "cow": 230}
ALONE = {
    "peers": {"a": {"model": "small_cnn", "args": {"widths": [8, 8], "strides": [2, 2]}}},
    "objectives": [{"loss": "cross_entropy"}],
    "optimizer": {"name": "adam", "lr": 0.02},
}


def write_images(root, shades=SHADES):
    generator = torch.Generator().manual_seed(0)
    for part, number in (("train", 12), ("val", 6)):
        for name, shade in shades.items():
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                noise = torch.randint(-15, 15, (8, 8), generator=generator)
                Image.fromarray((shade + noise).to(torch.uint8).numpy()).save(root / part / name / f"{index}.png")


def document(root, output, **sections):
    data = {"dataset": "image_folder", "root": str(root), "image_size": 8, "channels": 1, "batch_size": 12}
    return {**tiny_document(data=data, train={"epochs": 6, "progress": False}), **ALONE, "output": str(output), **sections}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("classes")
    write_images(place / "images")
    mutual.fit(parse_recipe(document(place / "images", place)))
    return place / "tiny"


def rename(root, names):
    for part in ("train", "val"):
        for old in names:
            (root / part / old).rename(root / part / f"{old}.old")
        for old, new in names.items():
            (root / part / f"{old}.old").rename(root / part / new)
    return root


@pytest.fixture
def images(run, tmp_path):
    return shutil.copytree(run.parent / "images", tmp_path / "images")


def scores(run, root, capsys):
    capsys.readouterr()
    code = evaluate.main([str(run), f"data.root={root}", "--json"])
    out, err = capsys.readouterr()
    return json.loads(out)["a"]["top1"] if code == 0 else err


def reordered(weights, order):
    """The contents of a weights file whose model has its classes in another order."""
    model, card = read_model(weights)
    with torch.no_grad():
        model.fc.weight.copy_(model.fc.weight[order])
        model.fc.bias.copy_(model.fc.bias[order])
    return model_bytes(model, replace(card, class_names=tuple(card.class_names[index] for index in order)))


def test_a_peers_outputs_are_read_by_the_names_of_its_classes(run, images, capsys):
    accuracy = scores(run, images, capsys)
    assert accuracy > 0.9
    other = shutil.copytree(run, images.parent / "run")
    content = reordered(other / "best" / "a.safetensors", [2, 0, 1])
    (other / "best" / "a.safetensors").write_bytes(content)
    best = RunFolder(other).read_best()
    RunFolder(other).write_best(best.model_copy(update={"sha256": {"best/a": [sha256(content).hexdigest()]}}))
    assert scores(other, images, capsys) == accuracy


def test_renamed_folders_are_refused(run, images, capsys):
    renamed = rename(images, {"ant": "dog"})
    line = scores(run, renamed, capsys)
    assert "data: not what peer 'a' was trained for: classes differ: only the model has 'ant'; only the data has 'dog'" in line
    assert line.count("\n") == 1


def test_a_run_is_not_resumed_with_other_data(run, images):
    again = document(images, images.parent)
    shutil.copytree(run, images.parent / "tiny")
    mutual.fit(parse_recipe(again), resume=True)
    (images / "train" / "ant" / "0.png").rename(images / "train" / "ant" / "00.png")
    with pytest.raises(
        RecipeError, match="these are not the data that the run was started with: other train images or labels, as many of each class"
    ):
        mutual.fit(parse_recipe(again), resume=True)
    (images / "train" / "ant" / "00.png").unlink()
    with pytest.raises(
        RecipeError, match="number of training images: 36 then, 35 now; train images of each class, number 0: 12 then, 11 now"
    ):
        mutual.fit(parse_recipe(again), resume=True)
    rename(images, {"bee": "eel"})
    with pytest.raises(RecipeError, match="classes, number 1: 'bee' then, 'cow' now"):
        mutual.fit(parse_recipe(again), resume=True)


@pytest.fixture
def teacher(run, tmp_path):
    """The trained peer's weights, as of another order of its classes."""
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(reordered(run / "best" / "a.safetensors", [1, 2, 0]))
    return path


def taught(teacher, images, output, **changes):
    peers = {"a": ALONE["peers"]["a"], "t": {**ALONE["peers"]["a"], "weights": str(teacher), "frozen": True, **changes}}
    objectives = [{"loss": "kd", "learners": ["a"], "sources": ["t"]}]
    return document(images, output, peers=peers, objectives=objectives, train={"epochs": 25, "progress": False})


def test_a_teacher_is_read_by_the_names_of_its_classes(teacher, images, tmp_path):
    result = mutual.fit(parse_recipe(taught(teacher, images, tmp_path)))
    assert result.metrics["t"]["top1"] > 0.9
    assert result.metrics["a"]["top1"] > 0.9, "what it taught was right, too"


def test_a_teacher_of_other_classes_is_refused(teacher, images, tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump(taught(teacher, rename(images, {"cow": "dog", "ant": "fly"}), tmp_path)))
    assert train.main([str(recipe)]) == 2
    assert "peers.t.weights: " in (line := capsys.readouterr().err)
    assert "1 of its 3 classes are among the data's 3: only the model has 'ant', 'cow'; only the data has 'dog', 'fly'" in line


def test_a_teacher_of_some_classes_is_named(teacher, images, tmp_path):
    with pytest.warns(UserWarning, match=r"peers.t: knows 2 of the data's 3 classes \(not 'dog'\); losses and scores compare those"):
        result = mutual.fit(parse_recipe(taught(teacher, rename(images, {"cow": "dog"}), tmp_path)))
    assert result.metrics["t"]["top1"] > 0.9, "of the images of the classes that it knows"


def test_a_trainable_peer_cannot_begin_with_classes_in_another_order(teacher, images, tmp_path):
    with pytest.raises(RecipeError, match=r"peers.t.weights: .* has the data's classes in another order"):
        mutual.fit(parse_recipe({**taught(teacher, images, tmp_path, frozen=False), "objectives": [{"loss": "cross_entropy"}]}))


def test_other_data_are_brought_to_what_the_model_was_trained_on(run, images, tmp_path, capsys):
    """Size, channels and normalisation that the recipe leaves to the data set are the model's, not those of the data it is scored on."""
    accuracy = scores(run, images, capsys)
    recipe = document(images, tmp_path)
    for key in ("image_size", "channels"):
        del recipe["data"][key]
    folder = RunFolder(shutil.copytree(run, tmp_path / "run"))
    folder.initialize(parse_recipe(recipe), {})
    assert scores(folder.path, images, capsys) == accuracy


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("peers.a.input.channels=3", "peers.a.input.channels: the peer was trained with 1"),
        ("peers.a.input.size=1", "peers.a.input.size: the peer was trained with 8 x 8 pixels, and 1 x 1 fail (wrong size)"),
    ],
)
def test_images_that_a_model_does_not_take_are_a_line(run, monkeypatch, capsys, override, line):
    def strict(*_):
        raise RuntimeError("wrong size\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", strict)
        assert evaluate.main([str(run), override]) == 2
    reported = capsys.readouterr().err
    assert line in reported
    assert reported.count("\n") == 1
