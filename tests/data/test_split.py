"""One folder of classes becomes train/ and val/: stratified, seeded, whole or not at all, and the source is left alone."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mutual.data import build_data
from mutual.data.split import main, split_folder
from mutual.recipe import InputError, parse_recipe


@pytest.fixture
def source(tmp_path):
    for name, number in (("cat", 20), ("dog", 10), ("eel", 2)):
        (tmp_path / "all" / name / "more").mkdir(parents=True)
        for index in range(number):
            folder = tmp_path / "all" / name / ("more" if index % 2 else "")
            Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
    (tmp_path / "all" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "all"


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def test_each_class_gives_its_share(source, tmp_path):
    assert split_folder(source, tmp_path / "out", val=0.2) == {"cat": (16, 4), "dog": (8, 2), "eel": (1, 1)}
    train, val = files(tmp_path / "out" / "train"), files(tmp_path / "out" / "val")
    assert not train & val
    assert train | val == files(source)


def test_the_split_is_a_function_of_the_seed_and_the_class(source, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split_folder(source, tmp_path / name, val=0.2, seed=seed, copy=name == "b")
    held_out = [files(tmp_path / name / "val") for name in "abc"]
    assert held_out[0] == held_out[1] != held_out[2]
    (source / "fox").mkdir()
    for index in range(3):
        Image.new("RGB", (8, 8)).save(source / "fox" / f"{index}.png")
    split_folder(source, tmp_path / "d", val=0.2)
    assert {name for name in files(tmp_path / "d" / "val") if not name.startswith("fox")} == held_out[0]


def test_links_share_the_file_and_copies_do_not(source, tmp_path):
    split_folder(source, tmp_path / "links", val=0.2)
    split_folder(source, tmp_path / "copies", val=0.2, copy=True)
    name = next(iter(files(source)))
    place = "train" if name in files(tmp_path / "links" / "train") else "val"
    assert (tmp_path / "links" / place / name).samefile(source / name)
    assert not (tmp_path / "copies" / place / name).samefile(source / name)


def test_the_result_is_an_image_folder(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "out"), "--val", "0.3"]) == 0
    assert "3 classes, 22 training and 10 validation images" in capsys.readouterr().out
    sections = {"dataset": "image_folder", "root": str(tmp_path / "out"), "image_size": 8, "batch_size": 4}
    recipe = parse_recipe({"name": "x", "data": sections, "peers": {"a": {"model": "x"}}, "objectives": [{"loss": "cross_entropy"}]})
    info = build_data(recipe.data, seed=0).info
    assert (info.num_train, info.num_val, info.class_names) == (22, 10, ("cat", "dog", "eel"))


def test_wrong_input_leaves_nothing_behind(source, tmp_path, capsys):
    (source / "gnu").mkdir()
    Image.new("RGB", (8, 8)).save(source / "gnu" / "0.png")
    for arguments, message in (
        ([str(source), str(tmp_path / "out")], "gnu holds 1 image(s); a class needs one for train and one for val"),
        ([str(tmp_path / "nowhere"), str(tmp_path / "out")], "no folder"),
        ([str(source), str(source)], "is there already"),
        ([str(source), str(tmp_path / "out"), "--val", "2"], "no fraction between 0 and 1"),
        ([str(source / "cat" / "more"), str(tmp_path / "out")], "holds no folder of a class"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError):
        split_folder(source, tmp_path / "out", val=0.0)


@pytest.mark.parametrize("destination", ["all/in", "all", "all/cat/in", "link/in"])
def test_a_destination_within_the_source_is_refused(source, tmp_path, capsys, destination):
    (tmp_path / "link").symlink_to(source)
    before = sorted(tmp_path.rglob("*"))
    assert main([str(source), str(tmp_path / destination)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_leftover_that_is_not_ours_stays(source, tmp_path, capsys, monkeypatch):
    (tmp_path / ".unfinished-out").mkdir()
    (tmp_path / ".unfinished-out" / "thesis.txt").write_text("years of work")
    assert main([str(source), str(tmp_path / "out")]) == 0
    assert (tmp_path / ".unfinished-out" / "thesis.txt").read_text() == "years of work"
    monkeypatch.setattr(os, "getpid", lambda: 7)
    (tmp_path / ".unfinished-new-7").mkdir()
    (tmp_path / ".unfinished-new-7" / "thesis.txt").write_text("years of work")
    capsys.readouterr()
    assert main([str(source), str(tmp_path / "new")]) == 2
    assert ".unfinished-new-7 is in the way and is not removed" in capsys.readouterr().err
    assert (tmp_path / ".unfinished-new-7" / "thesis.txt").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_split_that_is_cut_leaves_nothing(source, tmp_path, capsys, monkeypatch, error):
    copied = []

    def copy(file, place):
        copied.append(file)
        if len(copied) == 10:
            raise error

    monkeypatch.setattr(shutil, "copy2", copy)
    assert main([str(source), str(tmp_path / "out"), "--copy"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


@pytest.mark.parametrize("options", [[], ["--copy"]])
def test_links_lead_to_their_images_from_the_new_place_too(source, tmp_path, options):
    (tmp_path / "elsewhere.png").write_bytes((source / "cat" / "0.png").read_bytes())
    for index in range(4):
        (source / "eel" / f"link{index}.png").symlink_to("../../elsewhere.png")
    assert main([str(source), str(tmp_path / "out"), *options]) == 0
    links = list((tmp_path / "out").rglob("link*.png"))
    assert len(links) == 4
    for link in links:
        assert link.read_bytes() == (source / "cat" / "0.png").read_bytes()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("nowhere")])
def test_what_is_no_file_is_named(source, tmp_path, capsys, make):
    make(source / "dog" / "odd.png")
    assert main([str(source), str(tmp_path / "out")]) == 2
    assert "dog/odd.png is no file, or a link to nothing" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def test_names_that_are_not_utf8_and_hidden_files(source, tmp_path):
    odd = os.fsdecode(b"\xff\xfe")
    (source / odd).mkdir()
    for index in range(3):
        Image.new("RGB", (8, 8)).save(source / odd / f"{odd}{index}.png")
    (source / odd / "._1.png").write_bytes(b"AppleDouble")
    assert split_folder(source, tmp_path / "out", val=0.3)[odd] == (2, 1)
    assert not list((tmp_path / "out").rglob("._*"))
