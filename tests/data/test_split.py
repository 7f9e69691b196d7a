"""One folder of classes becomes train/ and val/: stratified, seeded, whole or not at all, and the source is left alone."""

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
