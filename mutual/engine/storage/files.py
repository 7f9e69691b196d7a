"""Files that are either whole or absent (written beside, fsynced, renamed), and the one function that removes files."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mutual.recipe import InputError

MARK = ".mutual-run.json"
"""Stands in every run folder; nothing is removed from a folder without it."""
UNFINISHED = ".unfinished-"
REPLACED = ".replaced-"


def write_file(path: Path, content: bytes) -> None:
    """Puts `content` at `path` in one step: whoever reads it sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = unfinished(path)
    try:
        _write_synced(beside, content)
    except OSError:  # on a full disk, half a file is what the next attempt needs the space of
        beside.unlink(missing_ok=True)
        raise
    beside.replace(path)
    _sync_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes], *, root: Path) -> None:
    """Puts a folder with `files` at `path`, inside the run folder `root`, in one step.

    A folder that is there already is moved aside before, and removed only when the new one is in its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, aside = unfinished(path), replaced(path)
    _remove_whole(beside, root)
    beside.mkdir()
    try:
        for name, content in files.items():
            _write_synced(beside / name, content)
        _sync_folder(beside)
    except OSError:
        _remove_whole(beside, root)
        raise
    if path.exists():
        _remove_whole(aside, root)
        path.rename(aside)
    beside.rename(path)
    _sync_folder(path.parent)
    _remove_whole(aside, root)


def remove(paths: Iterable[Path], *, root: Path) -> None:
    """Removes files inside the run folder `root`, and then the folders that they leave empty; no other function removes what was written.

    Links are removed, not followed. What is not named stays, and so does its folder.

    Raises:
        InputError: `root` does not carry our mark, or a folder inside it is a link.
    """
    if not (root / MARK).is_file():
        raise InputError(f"{root} does not carry the mark of a run ({MARK}): nothing in it is removed")
    paths = list(paths)
    check_no_links((path.parent for path in paths), root=root)
    parents: dict[Path, None] = {}
    for path in paths:
        if path.is_symlink() or path.is_file():
            path.unlink()
            parents[path.parent] = None
    for parent in parents:
        if parent != root and not any(parent.iterdir()):
            parent.rmdir()


def sha256(content: bytes) -> str:
    """Returns the checksum by which files are known, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def check_no_links(folders: Iterable[Path], *, root: Path) -> None:
    """Refuses folders inside the run folder `root` that are links: what they hold may be another run's.

    Raises:
        InputError: one is; the line says where it leads.
    """
    for folder in dict.fromkeys(folders):
        for each in (folder, *folder.parents):
            if each == root:
                break
            if each.is_symlink():
                raise InputError(f"{each} is a link to {each.readlink()}, which may be another run's; put the folder itself in its place")


def unfinished(path: Path) -> Path:
    """Returns where `path` is written before it is renamed."""
    return path.with_name(f"{UNFINISHED}{path.name}")


def replaced(path: Path) -> Path:
    """Returns where an older folder waits until the new one stands at `path`."""
    return path.with_name(f"{REPLACED}{path.name}")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Returns `value` as JSON; numbers that are not finite, for which JSON has no word, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _remove_whole(folder: Path, root: Path) -> None:
    """Removes a folder that only this module makes, and fills with files alone."""
    if folder.is_dir():
        remove(folder.iterdir(), root=root)
        if folder.is_dir():  # it was empty, or something foreign is in it, which rmdir tells
            folder.rmdir()


def _write_synced(path: Path, content: bytes) -> None:
    try:
        with open(path, "wb", opener=_opened) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that fails does not say where
        raise


def _opened(path: str, flags: int) -> int:
    """Opens a file to be written, but no other through a link that stands in its place."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
