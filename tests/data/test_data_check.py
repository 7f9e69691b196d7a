"""data.check finds what is wrong with a data set, reads in parallel, and outlives a decoder that crashes or does not end."""

import errno
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from support import run, start, tiny_document

from mutual.data import check, split
from mutual.data.check import main
from mutual.data.datasets import image_check
from mutual.data.files import reading
from mutual.data.files.reading import FileContents, examine
from mutual.recipe import Data, InputError


@pytest.fixture
def root(tmp_path):
    number = 0
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(4):
                number += 1
                Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def found(arguments, capsys, expect):
    assert main([*map(str, arguments), "--json"]) == expect
    return json.loads(capsys.readouterr().out)


def test_nothing_is_found_where_nothing_is_wrong(root, capsys):
    nothing = {"images": 16, "bad": {}, "duplicates": {}, "test_duplicates": {}, "one_sided": {}, "empty": [], "hidden": []}
    assert found([root], capsys, 0) == nothing
    assert main([str(root)]) == 0
    assert capsys.readouterr().out == "16 images: 0 bad, 0 of val that are in train too; 0 classes of one side only, 0 empty\n"


@pytest.mark.parametrize("workers", [1, 3])
def test_everything_that_is_wrong_is_found(root, capsys, workers):
    (root / "train/cat/0.png").write_bytes(b"no image")
    os.mkfifo(root / "train/dog/pipe.jpg")
    (root / "val/dog/dangling.jpg").symlink_to("nowhere")
    (root / "val/dog/empty.gif").touch()
    (root / "val/dog/copy.png").write_bytes((root / "train/cat/1.png").read_bytes())
    (root / "val/cat/link.png").symlink_to(root / "train/cat/1.png")
    (root / "train/cat/._1.png").write_bytes(b"AppleDouble")
    (root / "train/.thumbnails").mkdir()
    (root / "train/.thumbnails/1.png").write_bytes((root / "train/cat/1.png").read_bytes())
    (root / "train/fox").mkdir()
    Image.new("RGB", (8, 8), (99, 0, 0)).save(root / "train/fox/0.png")
    (root / "val/gnu").mkdir()
    what = found([root, "--workers", workers], capsys, 1)
    assert what["images"] == 22
    assert {path.removeprefix(f"{root}/"): reason[:12] for path, reason in what["bad"].items()} == {
        "train/cat/0.png": "it begins as",
        "train/dog/pipe.jpg": "it is a pipe",
        "val/dog/dangling.jpg": "it is a link",
        "val/dog/empty.gif": "it is empty",
    }
    same = str(root / "train/cat/1.png")
    assert what["duplicates"] == {str(root / "val/dog/copy.png"): same, str(root / "val/cat/link.png"): same}
    assert what["one_sided"] == {"fox": "train", "gnu": "val"}
    assert what["empty"] == [str(root / "val/gnu")]
    assert what["hidden"] == [str(root / "train/.thumbnails/1.png"), str(root / "train/cat/._1.png")]
    assert main([str(root)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert f"{root}/train/dog/pipe.jpg is no image that can be read: it is a pipe" in printed
    assert f"{root}/val/dog/copy.png has the content of {root}/train/cat/1.png" in printed
    assert "class fox is in train only" in printed
    assert f"note: {root}/train/cat/._1.png is hidden and passed over" in printed
    assert printed[-1] == "22 images: 4 bad, 2 of val that are in train too; 2 classes of one side only, 1 empty"


def test_test_images_are_checked_beside_the_others_where_they_have_classes(root, capsys):
    (root / "test").mkdir()
    (root / "test" / "0.png").write_bytes(b"no image")  # of no class, and of no split therefore
    assert found([root], capsys, 0)["images"] == 16
    for name in ("cat", "gnu"):
        (root / "test" / name).mkdir()
    same = {"test/cat/0.png": "train/dog/2.png", "test/gnu/1.png": "val/cat/3.png"}
    for copy, original in same.items():
        (root / copy).write_bytes((root / original).read_bytes())
    what = found([root], capsys, 1)
    assert (what["images"], what["duplicates"], what["one_sided"]) == (18, {}, {"gnu": "test"})
    assert what["test_duplicates"] == {str(root / copy): str(root / original) for copy, original in same.items()}
    main([str(root)])
    assert ", 0 of val that are in train too, 2 of test that are in train or val too; 1 classes" in capsys.readouterr().out


def test_images_in_memory_and_fractions_are_checked_too(root, capsys, monkeypatch):
    assert found([recipe(root, dataset="digits", test=0.2)], capsys, 0)["images"] == 1797
    split = image_check.read_splits(Data(dataset="digits"))
    double = replace(split, val=split.train.select(torch.arange(2)), test=split.val.select(torch.arange(355)))
    monkeypatch.setattr(image_check, "read_splits", lambda *_, **__: double)
    findings = image_check.check_data(Data(dataset="digits"), workers=1)
    assert findings.duplicates == {f"val image {index}": f"train image {index}" for index in range(2)}
    assert findings.test_duplicates == {}


def recipe(folder, **data):
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(tiny_document(data=data)))
    return file


def test_recipes_are_checked_as_they_would_be_trained(root, capsys):
    (root / "train/cat/0.png").write_bytes(b"no image")
    file = recipe(root, dataset="image_folder", root="elsewhere", image_size=8)
    assert list(found([file, f"data.root={root}"], capsys, 1)["bad"]) == [str(root / "train/cat/0.png")]
    (root / "train.txt").write_text("train/cat/1.png 0\ntrain/dog/1.png 1\ntrain/dog/2.png 2\n")
    (root / "val.txt").write_text("val/cat/1.png 0\ntrain/dog/1.png 1\n")
    lists = {"train_list": str(root / "train.txt"), "val_list": str(root / "val.txt")}
    file = recipe(root, dataset="image_list", root=str(root), image_size=8, unlabelled=str(root / "train/cat"), **lists)
    what = found([file], capsys, 1)
    assert list(what["bad"]) == [str(root / "train/cat/0.png")], "the unlabelled ones too"
    assert what["duplicates"] == {str(root / "train/dog/1.png"): str(root / "train/dog/1.png")}
    assert what["one_sided"] == {"2": "train"}
    assert found([recipe(root, dataset="digits")], capsys, 0)["images"] == 1797


def test_a_folder_of_classes_that_is_not_split_yet_is_checked_too(root, capsys):
    (root / "train/dog/0.png").write_bytes(b"")
    what = found([root / "train"], capsys, 1)
    assert (what["images"], list(what["bad"])) == (8, [str(root / "train/dog/0.png")])
    assert found([root / "train/cat"], capsys, 0)["images"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["{root}/none"], "none holds no image"),
        (["recipe.yaml", "data.dataset=image_folder", "data.root={root}/nowhere"], "no folder"),
        (["recipe.yaml", "data.dataset=image_list", "data.train_list=recipe.yaml", "data.val_list=recipe.yaml"], "recipe.yaml"),
    ],
)
def test_what_cannot_be_checked_is_one_line(root, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(root)
    (root / "none").mkdir()
    recipe(root, dataset="fake")
    assert main([argument.format(root=root) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_decoder_that_crashes_or_does_not_end_is_a_finding_about_its_file(root, monkeypatch):
    """In its own process: the others, and the files behind it, are read all the same."""

    def decode(content, channels, *, path):
        path = Path(path)
        if path.name == "1.png" and path.parent.name == "cat":
            os.kill(os.getpid(), signal.SIGKILL)
        if path.name == "2.png" and path.parent.name == "dog":
            time.sleep(60)
        if path.name == "3.png" and path.parent.name == "dog":
            os._exit(3)

    monkeypatch.setattr(reading, "decode", decode)
    paths = sorted(root.rglob("*.png"))
    for workers in (1, 2):
        everything = list(examine(FileContents(paths), len(paths), workers=workers, timeout=0.5))
        assert sorted(each.index for each in everything) == list(range(len(paths)))
        reasons = {str(paths[each.index].relative_to(root)): each.reason for each in everything if each.reason}
        assert reasons == {f"{part}/cat/1.png": "the decoder crashed (SIGKILL)" for part in ("train", "val")} | {
            f"{part}/dog/2.png": "decoding it took more than 0.5 s" for part in ("train", "val")
        } | {f"{part}/dog/3.png": "the decoder crashed (exit code 3)" for part in ("train", "val")}


def test_it_runs_from_the_command_line_with_names_that_are_not_utf8(root):
    odd = root / "train" / "cat" / os.fsdecode(b"\xff\xfe.png")
    odd.write_bytes(b"no image")
    done = run("mutual.data.check", root, "--workers", "2", expect=1, PYTHONIOENCODING="utf-8:strict")
    assert f"{odd} is no image" in done.stdout
    assert done.stderr == ""


def test_a_reader_that_has_had_enough_ends_it_without_a_traceback(tmp_path):
    cats, pipe = tmp_path / "data" / "cat", tmp_path / "pipe"
    cats.mkdir(parents=True)
    for index in range(3000):  # more than a pipe holds
        (cats / f"{'long' * 10}{index}.png").touch()
    os.mkfifo(pipe)
    job = start("mutual.data.check", tmp_path / "data", stdout=pipe)
    with pipe.open() as reader:
        assert "is empty" in reader.readline()
    assert job.wait(timeout=60) == 1
    assert job.stderr == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 1, "interrupted"),
        (OSError(errno.EMFILE, "Too many open files", "a\nb"), 1, r"a\nb: Too many open files; allow more open files"),
        (InputError("a\x1bb holds no image"), 2, r"a\x1bb holds no image"),
    ],
)
@pytest.mark.parametrize("command", [check, split])
def test_check_and_split_end_as_every_verb_does(tmp_path, capsys, monkeypatch, command, error, code, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(*((image_check, "check_folder") if command is check else (split, "split_folder")), fail)
    assert command.main([str(tmp_path), *([] if command is check else [str(tmp_path / "out")])]) == code
    reported = capsys.readouterr()
    assert reported.err.startswith(f"mutual: {line}")
    assert reported.err.count("\n") == 1
    assert reported.out == ""
