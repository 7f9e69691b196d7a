"""`mutual.init`: what it says of images, the recipe that it writes, and what it refuses."""

import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from support import run

from mutual.data import survey_images
from mutual.engine import draft_recipe
from mutual.init import _name_of
from mutual.recipe import InputError, load_recipe


def write_images(folder, number, size=(20, 16), mode="RGB"):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(number)
    for index in range(number):
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8), mode).save(folder / f"{index}.png")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part, number in (("train", 12), ("val", 4)):
        write_images(tmp_path / "photos" / part / "cat", number, size=(70, 50))
        write_images(tmp_path / "photos" / part / "dog", number // 4, size=(70, 50))
    return tmp_path / "photos"


def look(folder, sample=100):
    return survey_images(str(folder), sample=sample, workers=1)


def draft(found, **models):
    return draft_recipe(found, file=Path("mine.yaml"), **{"student": "small_cnn", "teacher": None, **models})


def test_a_survey_says_what_there_is(photos):
    (photos / "val" / "cat" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = look(photos)
    assert found.num_images == {"train": 15, "val": 6}
    assert found.class_sizes == {"cat": 12, "dog": 3}
    assert (found.image_size, found.channels, found.num_read) == ((50, 70), 3, 21)
    assert list(found.bad) == [str(photos / "val" / "cat" / "torn.png")]
    assert found.imbalance == 4


def test_of_many_images_a_sample_is_read(photos):
    assert 5 <= look(photos, sample=6).num_read <= 7


def test_a_folder_of_grey_images_makes_grey_peers(tmp_path):
    for part in ("train", "val"):
        for name in "ab":
            write_images(tmp_path / part / name, 4, mode="L")
    found = look(tmp_path)
    assert found.channels == 1
    assert draft(found).recipe.data.channels == 1


def test_small_images_are_evaluated_as_they_are_trained_on(photos):
    """The default cuts the margins off, which training images have."""
    data = draft(look(photos)).recipe.data
    assert data.augment[0].mode == "exact"
    assert [(each.name, each.mode) for each in data.preprocess] == [("resize", "exact")]


@pytest.mark.parametrize(("sizes", "held_out"), [((30, 25), {"val": 0.15, "test": 0.15}), ((30, 8), {"val": 0.15})])
def test_parts_of_a_folder_that_is_not_split_are_held_out(tmp_path, sizes, held_out):
    for name, number in zip("ab", sizes, strict=True):
        write_images(tmp_path / name, number)
    found = look(tmp_path)
    assert found.fields == {"dataset": "image_folder", "root": str(tmp_path), "train": ".", **held_out}
    assert set(found.num_images) == {"train", *held_out}
    assert sum(found.num_images.values()) == sum(sizes)


@pytest.mark.parametrize(("number", "held_out"), [(30, {"val": 0.15, "test": 0.15}), (8, {"val": 0.15})])
def test_parts_of_shards_and_tables_without_validation_images_are_held_out(tmp_path, monkeypatch, number, held_out):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    png = io.BytesIO()
    Image.new("RGB", (20, 20)).save(png, "PNG")
    with tarfile.open("0.tar", "w") as shard:
        for index in range(2 * number):
            for suffix, content in (("png", png.getvalue()), ("cls", str(index % 2).encode())):
                member = tarfile.TarInfo(f"{index:03}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    Path("table").mkdir()
    rows = {"image": [png.getvalue()] * (2 * number), "label": [0, 1] * number}
    pyarrow.parquet.write_table(pyarrow.table(rows), "table/train.parquet")
    for dataset in ("wds/0.tar", "hfds/table"):
        found = look(dataset)
        assert found.fields == {"dataset": dataset, **held_out}
        assert sum(found.num_images.values()) == 2 * number
        assert set(found.num_images) == {"train", *held_out}


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("photos", "photos"),
        ("hfds/table", "table"),
        ("hfds/table/all.parquet", "all"),
        ("hfds/owner/pets:small@v1", "pets"),
        ("wds/pets/{000..127}.tar", "pets"),
        ("wds/{000..127}.tar", "000..127"),
        ("my_data:make", "my_data"),
        ("???", "mine"),
    ],
)
def test_a_recipe_is_called_as_the_data_are(photos, dataset, name):
    assert _name_of(dataset) == name


@pytest.mark.parametrize(("file", "told"), [("0.tar", "as shards it is wds/here/*.tar"), ("a/0.parquet", "as tables it is hfds/here")])
def test_a_folder_of_something_else_is_told_with_its_name(tmp_path, monkeypatch, file, told):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "here" / file
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(InputError, match=f"^here holds no folder of a class; .*; {re.escape(told)}$"):
        look("here")


def test_folders_of_other_usual_names_are_found(tmp_path):
    for part in ("training", "validation", "test"):
        for name in "ab":
            write_images(tmp_path / part / name, 2)
    found = look(tmp_path)
    assert {key: found.fields[key] for key in ("train", "val", "test")} == {"train": "training", "val": "validation", "test": "test"}


@pytest.mark.parametrize("contents", ["empty", "images alone", "one class", "nothing readable"])
def test_what_cannot_be_trained_on_is_told_in_one_line(tmp_path, contents):
    if contents == "images alone":
        write_images(tmp_path, 3)
    if contents == "one class":
        write_images(tmp_path / "train" / "a", 3)
    if contents == "nothing readable":
        for name in "ab":
            (tmp_path / name).mkdir()
            for index in range(4):
                (tmp_path / name / f"{index}.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError) as caught:
        look(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_recipe_for_small_images_is_read_again_as_it_was_drafted(photos, tmp_path):
    made = draft(look(photos), student=None)
    assert made.recipe.peers["a"].model == "pplcnet_x0_5"
    (tmp_path / "mine.yaml").write_text(made.text)
    assert load_recipe(tmp_path / "mine.yaml") == made.recipe
    assert (made.recipe.data.image_size, made.recipe.data.batch_size) == (48, 8)
    assert "# sampler: balanced" in made.text
    assert made.memory_bytes > 0 < made.epoch_seconds


def test_a_run_teaches_as_it_is(photos, tmp_path):
    document = {"name": "old", "output": str(tmp_path), "data": look(photos).fields, "peers": {"t": {"model": "small_cnn"}}}
    document |= {"objectives": [{"loss": "cross_entropy"}], "train": {"epochs": 1, "progress": False}}
    document["data"] |= {"image_size": 32, "batch_size": 8}
    import mutual

    mutual.fit(mutual.load_recipe(document))
    recipe = draft(look(photos), teacher=str(tmp_path / "old")).recipe
    assert recipe.peers["teacher"].frozen
    assert (recipe.peers["teacher"].model, recipe.peers["teacher"].weights) == ("small_cnn", str(tmp_path / "old"))
    assert [each.loss for each in recipe.objectives] == ["cross_entropy", "kd"]


def test_a_teacher_of_a_zoo_begins_with_its_weights_and_is_trained(photos):
    made = draft(look(photos), teacher="torchvision/resnet18")
    assert (made.recipe.peers["teacher"].weights, made.recipe.trainable) == ("pretrained", ("student", "teacher"))
    assert "mutual.export runs/mine --peer student" in made.text  # the teacher may score best


def test_a_model_that_is_not_there_is_told(photos):
    with pytest.raises(InputError, match="no model"):
        draft(look(photos), student="smal_cnn")


def test_batches_grow_with_the_images_and_not_beyond_the_memory(photos, monkeypatch):
    from mutual.engine import drafting

    device = torch.device("cpu")
    assert drafting._batch_size(10_000, lambda size: 1e6 * size, device) == 64
    assert drafting._batch_size(330, lambda size: 1e6 * size, device) == 32
    monkeypatch.setattr(drafting.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 50e6})())
    assert drafting._batch_size(10_000, lambda size: 1e6 * size, device) == 16
    assert drafting._batch_size(10_000, lambda size: 1e9 * size, device) == 8


@pytest.mark.slow
def test_two_commands_from_a_folder_to_a_trained_peer(tmp_path):
    for name in "ab":
        write_images(tmp_path / "my photos" / name, 24, size=(40, 34))
    said = run("mutual.init", "my photos", cwd=tmp_path).stdout
    assert said.splitlines()[-1] == "next: accelerate launch -m mutual.train my_photos.yaml"
    run("mutual.train", "my_photos.yaml", "train.epochs=1", cwd=tmp_path)
    assert (tmp_path / "runs" / "my_photos" / "best" / "a.safetensors").exists()
    again = run("mutual.init", "my photos", cwd=tmp_path, expect=2)
    assert "my_photos.yaml is there already" in again.stderr
    assert "Traceback" not in again.stderr
