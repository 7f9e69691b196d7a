"""Listing: which files of a folder are its images, in a fixed order; hidden ones are not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mutual.recipe import InputError, printable

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})


def image_files(folder: Path) -> list[Path]:
    """Returns the files under `folder` that are named as images, sorted; hidden files and folders (`._x.jpg`) are passed over."""
    return sorted(path for path in _named_as_images(folder) if not _is_hidden(path, folder))


def hidden_image_files(folder: Path) -> list[Path]:
    """Returns the files under `folder` that are named as images and that `image_files` passes over, sorted."""
    return sorted(path for path in _named_as_images(folder) if _is_hidden(path, folder))


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


def _named_as_images(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:  # a folder that cannot be listed would pass for an empty one
        if not _is_hidden(Path(error.filename), folder):
            raise error

    for parent, _, names in os.walk(folder, onerror=stop):
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122, a Path for each file takes longer
                yield Path(parent, name)


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
