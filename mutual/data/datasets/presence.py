"""Whether the files of a data set are there; imports no torch, so that a wrong path is reported at once."""

from __future__ import annotations

import os
import posixpath
from contextlib import suppress
from itertools import permutations
from pathlib import Path

from mutual.data.datasets.hub.source import check_hub
from mutual.data.datasets.shards.paths import paths_by_split
from mutual.data.files.listing import class_folders
from mutual.recipe import Data

_IDX = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
"""By data set the name of torchvision's folder for it."""
_SPLITS = {"train", "training", "val", "valid", "validation", "test"}
IDX_IMAGES, IDX_LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"


def check_present(data: Data) -> None:
    """Raises a ValueError where a folder or list that `data` names is missing, in the words of those who read it."""
    root = Path(data.root or "")
    if data.family == "wds":
        paths_by_split(data)
    with suppress(OSError):  # whoever reads it says what is wrong
        if data.dataset == "image_folder":
            for folder in split_folders(data).values():
                labelled_folders(folder, root)
        elif data.dataset == "image_list":
            for path in split_lists(data).values():
                check_list(path)
        elif data.family == "hfds":
            check_hub(data)
        elif data.dataset in _IDX and not data.download:
            for part in ("train", "t10k"):
                for name in (IDX_IMAGES, IDX_LABELS):
                    idx_file(idx_folders(root, _IDX[data.dataset]), name.format(part))


def split_folders(data: Data) -> dict[str, Path]:
    """Returns by split the folder of image_folder that holds it.

    Raises:
        ValueError: one lies in another, whose images or classes its own would be, too.
    """
    root = Path(data.root or "")
    folders = {split: root / folder for split, folder in data.split_folders.items()}
    places = {split: Path(os.path.abspath(folder)) for split, folder in folders.items()}  # noqa: PTH100, links stay
    for (inner, path), (outer, parent) in permutations(places.items(), 2):
        if path == parent:
            raise ValueError(
                f"{folders[inner]} is both data.{inner} and data.{outer}; give another folder, or a fraction of the training images"
            )
        if path.is_relative_to(parent):
            raise ValueError(
                f"{folders[inner]}, data.{inner}, lies in {folders[outer]}, data.{outer}, and would be one of its classes; give a folder "
                "outside, or a fraction of the training images"
            )
    return folders


def unused_test_folder(data: Data) -> Path | None:
    """Returns the folder `test` beside those that an image_folder reads, where it holds folders of classes and no split is read from it."""
    folder = Path(data.root or "") / "test"
    is_read = "test" in map(posixpath.normpath, data.split_folders.values()) or posixpath.normpath(data.train or "train") == "."
    return None if data.test is not None or is_read or not folder.is_dir() or not class_folders(folder) else folder


def split_lists(data: Data) -> dict[str, Path]:
    """Returns by split the list of image_list that names its images."""
    lists = {"train": data.train_list, "val": None if isinstance(data.val, float) else data.val_list or "", "test": data.test}
    return {split: Path(path) for split, path in lists.items() if isinstance(path, str)}


def labelled_folders(folder: Path, root: Path) -> list[str]:
    """Returns the names of the classes that have a folder in `folder`, a split of the data in `root`, sorted.

    Raises:
        ValueError: there is no such folder, or no folder in it; or its folders are the splits.
    """
    if not folder.is_dir():
        unsplit = folder == root / "train" and root.is_dir() and bool(class_folders(root)) and not (root / "val").is_dir()
        hint = f"; where {root} is a folder of classes that are not split, set data.train: . and data.val: 0.1" if unsplit else ""
        raise ValueError(f"no folder {folder}; image_folder needs ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg{hint}")
    names = [entry.name for entry in class_folders(folder)]
    if not names:
        raise ValueError(f"{folder} holds no folder of a class; image_folder needs {folder}/CLASS/*.jpg")
    if set(names) <= _SPLITS:
        raise ValueError(
            f"{folder} holds the folders {', '.join(names)}, which are splits and no classes; name them in data.train and data.val"
        )
    return names


def check_list(file: Path) -> None:
    """Raises a ValueError where there is no such file."""
    if not file.is_file():
        raise ValueError(f"{file} is no file; it should be a text file with a line for each image")


def idx_folders(root: Path, name: str) -> list[Path]:
    """Returns where the files of torchvision's data set `name` may be under `root`."""
    return [root, root / name / "raw", root / "raw"]


def find_idx(folder: Path, name: str) -> Path | None:
    """Returns the file `name` or `name.gz` in `folder`, or None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def idx_file(folders: list[Path], name: str) -> Path:
    """Returns the first file `name` or `name.gz` in `folders`.

    Raises:
        ValueError: there is none.
    """
    path = next((found for folder in folders if (found := find_idx(folder, name)) is not None), None)
    if path is None:
        raise ValueError(f"no {name} or {name}.gz in {', '.join(map(str, folders))}; set data.root to their folder, or data.download: true")
    return path
