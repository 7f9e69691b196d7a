"""Writing: files of ours that are there whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

UNFINISHED = ".unfinished-"
"""What the name of a file begins with until it is whole; a process that was killed may leave one."""


def write_file(path: Path, content: bytes, *, synced: bool) -> None:
    """Writes a file beside `path` and renames it.

    Args:
        path: where it is to be.
        content: what it holds.
        synced: whether the disk has it when it is renamed; without, a machine that fails may leave a torn one.

    Raises:
        OSError: the disk is full, say; nothing is left of it.
    """
    temp_path = path.with_name(f"{UNFINISHED}{path.name}")
    try:
        with open(temp_path, "wb", opener=open_no_follow) as file:
            file.write(content)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        temp_path.replace(path)
    except OSError as error:
        with suppress(OSError):
            temp_path.unlink()
        error.filename = str(path)  # a failed write does not name its file
        raise


def open_no_follow(path: str, flags: int) -> int:
    """Opens a file for writing, but neither follows a link in its place nor waits for who reads a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
