"""Whether the files of a data set are there; imports no torch, so that a wrong path is reported at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mutual.data.datasets.hub_source import check_hub
from mutual.data.files.listing import class_folders
from mutual.data.files.shard_paths import shard_paths
from mutual.recipe import Data

_IDX = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
"""By data set the name of torchvision's folder for it."""
IDX_IMAGES, IDX_LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"


def check_present(data: Data) -> None:
    """Raises a ValueError where a folder or list that `data` names is missing, in the words of those who read it."""
    root = Path(data.root or "")
    if data.family == "wds":
        check_shards(data)
    with suppress(OSError):  # whoever reads it says what is wrong
        if data.dataset == "image_folder":
            for part in ("train", "val"):
                labelled_folders(root / part)
        elif data.dataset == "image_list":
            for path in (data.train_list, data.val_list):
                check_list(Path(path or ""))
        elif data.family == "hfds":
            check_hub(data)
        elif data.dataset in _IDX and not data.download:
            for part in ("train", "t10k"):
                for name in (IDX_IMAGES, IDX_LABELS):
                    idx_file(idx_folders(root, _IDX[data.dataset]), name.format(part))


def labelled_folders(folder: Path) -> list[str]:
    """Returns the names of the classes that have a folder in `folder`, sorted.

    Raises:
        ValueError: there is no such folder, or no folder in it.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; image_folder needs ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg")
    names = [entry.name for entry in class_folders(folder)]
    if not names:
        raise ValueError(f"{folder} holds no folder of a class; image_folder needs {folder}/CLASS/*.jpg")
    return names


def check_list(file: Path) -> None:
    """Raises a ValueError where there is no such file."""
    if not file.is_file():
        raise ValueError(f"{file} is no file; it should be a text file with a line for each image")


def check_shards(data: Data) -> None:
    """Raises a ValueError where a shard that `data` names is missing."""
    patterns = {"dataset": data.dataset.removeprefix("wds/"), "val": data.val, "test": data.test}
    for key, pattern in patterns.items():
        if isinstance(pattern, str):
            shard_paths(pattern, data.root, key=f"data.{key}")


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
