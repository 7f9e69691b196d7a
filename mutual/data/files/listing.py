"""Listing: which files of a folder are its images, in a fixed order; hidden ones are not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mutual.recipe import InputError, printable

if TYPE_CHECKING:
    from mutual.data.files.paths import PathArray

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})


def listed_images(folder: Path) -> PathArray:
    """Returns the files under `folder` that are named as images, sorted; hidden files and folders (`._x.jpg`) are passed over."""
    from mutual.data.files.paths import PathArray  # NumPy, which whoever only looks for folders does not need

    return PathArray.of(_sorted(folder, (name for name in _named_as_images(folder) if not _is_hidden(name))))


def image_files(folder: Path) -> list[Path]:
    """Returns the same as a list; of a million files that takes hundreds of megabytes."""
    return list(map(Path, _sorted(folder, (name for name in _named_as_images(folder) if not _is_hidden(name)))))


def hidden_image_files(folder: Path) -> list[Path]:
    """Returns the files under `folder` that are named as images and that `image_files` passes over, sorted."""
    return list(map(Path, _sorted(folder, filter(_is_hidden, _named_as_images(folder)))))


def named_images(paths: Iterable[Path]) -> list[Path]:
    """Returns the image files that `paths` name: files, and folders that hold some.

    Raises:
        InputError: a path does not exist, or a folder holds no image.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = image_files(path)
            if not found:
                raise InputError(f"{printable(path)} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
            files += found
        elif os.path.lexists(path):
            files.append(path)  # decoding reports what it is, if it is no file
        else:
            raise InputError(f"{printable(path)} does not exist; give image files or folders that hold some")
    return files


def class_folders(folder: Path) -> list[Path]:
    """Returns the folders in `folder`, sorted by name; hidden ones are passed over."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def path_prefix(folder: Path) -> str:
    """Returns what the paths of files in `folder` begin with."""
    return "" if folder == Path() else f"{folder}/".replace("//", "/")


def _sorted(folder: Path, names: Iterable[str]) -> list[str]:
    prefix = path_prefix(folder)
    return [prefix + name for name in sorted(names, key=lambda name: name.split("/"))]  # as paths are sorted, part by part


def _named_as_images(folder: Path) -> Iterator[str]:
    """Yields the paths below `folder`."""

    def stop(error: OSError) -> None:  # a folder that cannot be listed would pass for an empty one
        if not _is_hidden(_below(folder, error.filename)):
            raise error

    for parent, _, names in os.walk(folder, onerror=stop):
        below = _below(folder, parent)
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122, a Path for each file takes longer
                yield f"{below}/{name}" if below else name


def _below(folder: Path, path: str) -> str:
    """Returns the path below `folder` of one that `os.walk` has found there; empty for the folder itself."""
    return path[len(str(folder)) :].lstrip("/")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name
