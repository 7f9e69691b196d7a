"""Files that are either whole or absent: written beside, fsynced, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

_UNFINISHED = ".unfinished-"


def write_file(path: Path, content: bytes) -> None:
    """Puts `content` at `path` in one step: whoever reads it sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{_UNFINISHED}{path.name}")
    _write_synced(beside, content)
    beside.replace(path)
    _sync_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Puts a folder with `files` at `path` in one step, in place of one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{_UNFINISHED}{path.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    for name, content in files.items():
        _write_synced(beside / name, content)
    _sync_folder(beside)
    if path.exists():
        shutil.rmtree(path)
    beside.rename(path)
    _sync_folder(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Removes what an interrupted write left in `folder`."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
