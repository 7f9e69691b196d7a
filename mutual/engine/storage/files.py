"""Files that are either whole or absent (written to a temporary path, fsynced, renamed), and the one function that removes files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutual.recipe import InputError, printable

if TYPE_CHECKING:  # it imports torch
    from mutual.engine.storage.contents import Content

MARK = ".mutual-run.json"
"""The mark of a run folder; nothing is removed from a folder without it."""
UNFINISHED = ".unfinished-"
REPLACED = ".replaced-"


def write_file(path: Path, content: bytes) -> None:
    """Writes a file atomically: whoever reads it sees the old content or the new one, never a part.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "best" / "best.json"
        >>> write_file(path, b"{}")
        >>> path.read_bytes()
        b'{}'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_path = unfinished(path)
    try:
        _write_synced(temp_path, content)
    except OSError:  # on a full disk, half a file is what the next attempt needs the space of
        temp_path.unlink(missing_ok=True)
        raise
    temp_path.replace(path)
    _sync_folder(path.parent)


def read_file(path: Path) -> bytes:
    """Returns the content of a file; nothing of a pipe or a device, for which a reader would wait."""
    with open(path, "rb", opener=_open_no_wait) as file:
        return file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def write_folder(path: Path, files: Mapping[str, Content], *, root: Path) -> None:
    """Writes a folder with `files` atomically and in their order, inside the run folder `root`.

    A folder that is there already is moved aside before, and removed only when the new one is in its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_path, old_path = unfinished(path), replaced(path)
    _remove_whole(temp_path, root)
    temp_path.mkdir()
    try:
        for name, content in files.items():
            _write_synced(temp_path / name, content)
        _sync_folder(temp_path)
    except OSError:
        _remove_whole(temp_path, root)
        raise
    if path.exists():
        _remove_whole(old_path, root)
        path.rename(old_path)
    temp_path.rename(path)
    _sync_folder(path.parent)
    _remove_whole(old_path, root)


def remove(paths: Iterable[Path], *, root: Path) -> None:
    """Removes files inside the run folder `root`, and then the folders that they leave empty; no other function removes a run's files.

    Links are removed, not followed.

    Raises:
        InputError: `root` does not carry the mark of a run, a path is outside of it, or a folder inside it is a link.
    """
    if not (root / MARK).is_file():
        raise InputError(f"{root} does not carry the mark of a run ({MARK}): nothing in it is removed")
    paths = list(paths)
    for path in paths:
        if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):  # noqa: PTH100, which follows no link and resolves `..`
            raise InputError(f"{printable(path)} is outside of the run folder {root}: it is not removed")
    check_no_links((path.parent for path in paths), root=root)
    parents: dict[Path, None] = {}
    for path in paths:
        if path.is_symlink() or path.is_file():
            path.unlink()
            parents[path.parent] = None
    for parent in parents:
        while parent != root and not any(parent.iterdir()):
            parent.rmdir()
            parent = parent.parent


def sha256(content: bytes) -> str:
    """Returns the SHA-256 of `content` in hexadecimal.

    Example:
        >>> sha256(b"")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, which is not held in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def check_no_links(folders: Iterable[Path], *, root: Path) -> None:
    """Refuses folders inside the run folder `root` that are links, as they may lead to another run.

    Raises:
        InputError: one is; the line names its target.
    """
    for folder in dict.fromkeys(folders):
        for path in (folder, *folder.parents):
            if path == root:
                break
            if path.is_symlink():
                raise InputError(f"{path} is a link to {path.readlink()}, which may be another run's; put the folder itself in its place")


def unfinished(path: Path) -> Path:
    """Returns where `path` is written before it is renamed.

    Example:
        >>> unfinished(Path("best/a.safetensors")).as_posix()
        'best/.unfinished-a.safetensors'
    """
    return path.with_name(f"{UNFINISHED}{path.name}")


def replaced(path: Path) -> Path:
    """Returns where an older folder is kept until the new one is at `path`."""
    return path.with_name(f"{REPLACED}{path.name}")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Returns `value` as JSON, with null for numbers that are not finite.

    Example:
        >>> json_text({"top1": 0.5, "nll": float("nan")})
        '{"top1": 0.5, "nll": null}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _remove_whole(folder: Path, root: Path) -> None:
    """Removes a folder that this module has created, and its files."""
    if folder.is_dir():
        remove(folder.iterdir(), root=root)
        if folder.is_dir():  # it was empty; if something foreign is in it, rmdir raises
            folder.rmdir()


def _write_synced(path: Path, content: Content) -> None:
    try:
        with open(path, "wb", opener=_open_no_follow) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not name its file
        raise


def _open_no_follow(path: str, flags: int) -> int:
    """Opens a file for writing, but follows no link in its place."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _open_no_wait(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
