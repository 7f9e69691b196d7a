"""Data that cannot be read are the user's where a path is wrong or closed, and the machine's where a disk or a limit is at fault."""

import errno
import os
from pathlib import Path

import pytest
from PIL import Image
from support import tiny_document

from mutual.engine.training.setup import build_dataset
from mutual.recipe import RecipeError, parse_recipe


def recipe(root, **data):
    return parse_recipe(tiny_document(data={"dataset": "image_folder", "root": str(root), "image_size": 8, **data}))


LISTINGS = [(Path, "iterdir"), (os, "scandir")]


def failing(monkeypatch, number, owner, name):
    def fail(path="."):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize("dataset", ["image_folder", "mnist", "cifar10"])
def test_a_missing_root_is_one_line(tmp_path, dataset):
    with pytest.raises(RecipeError, match=r"^data: .*nowhere") as caught:
        build_dataset(recipe(tmp_path / "nowhere", dataset=dataset))
    assert "\n" not in str(caught.value)


def unreadable(root, monkeypatch, number, listing):
    """Makes a folder of images whose listing fails with this error number."""
    for part in ("train", "val"):
        (root / part / "cat").mkdir(parents=True)
        (root / part / "cat" / "0.png").write_bytes(b"")
    failing(monkeypatch, number, *listing)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("listing", LISTINGS)
def test_a_root_that_may_not_be_read_is_one_line(tmp_path, monkeypatch, number, listing):
    unreadable(tmp_path, monkeypatch, number, listing)
    with pytest.raises(RecipeError, match=rf"^data: {tmp_path}/train\S*: .*; give another path, or allow this user to read it$"):
        build_dataset(recipe(tmp_path))


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match=r"^data: .*File name too long"):
        build_dataset(recipe(tmp_path / ("x" * 300)))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ENOMEM, errno.EIO])
@pytest.mark.parametrize("listing", LISTINGS)
def test_the_machines_faults_are_not_the_recipes(tmp_path, monkeypatch, number, listing):
    unreadable(tmp_path, monkeypatch, number, listing)
    with pytest.raises(OSError) as caught:  # noqa: PT011, its number is compared
        build_dataset(recipe(tmp_path))
    assert caught.value.errno == number


@pytest.mark.parametrize(("number", "kind"), [(errno.EMFILE, OSError), (errno.EACCES, RecipeError), (errno.EIO, OSError)])
@pytest.mark.parametrize("dataset", ["image_list", "mnist"])
def test_files_of_lists_and_pixels_too(tmp_path, monkeypatch, dataset, number, kind):
    names = ["a.txt", *(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    lists = {"train_list": str(tmp_path / "a.txt"), "val_list": str(tmp_path / "a.txt")} if dataset == "image_list" else {}
    built = recipe(tmp_path, dataset=dataset, **lists)

    def fail(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(kind, match=os.strerror(number)) as caught:
        build_dataset(built)
    if kind is OSError:
        assert not isinstance(caught.value, ValueError)
        assert caught.value.errno == number


def test_a_hidden_folder_that_may_not_be_read_does_not_matter(tmp_path, monkeypatch):
    """A disk's lost files and bins, say."""
    for part in ("train", "val"):
        (tmp_path / part / "cat" / ".bin").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / part / "cat" / "0.png")
    scandir = os.scandir

    def closed(path):
        if Path(path).name == ".bin":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert build_dataset(recipe(tmp_path, augment=[])).info.num_train == 1
