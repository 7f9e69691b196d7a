"""What may happen to a training, from inside: a kill in a write or between two changes of its folder, a disk that is full or gone.

Each function arms the process that calls it; `forks.Job` calls them there.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mutual.engine.storage import BackgroundWriter, content_bytes, files
from mutual.engine.storage.contents import Content
from mutual.engine.teacher_store import shards

_CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_OPENED_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def die_in_write(number: int, part: float = 0.5, *, kind: str | None = None) -> None:
    """SIGKILL in the `number`-th write of a file (1 is the first), or of those of a kind, with this part of its content on the disk."""

    def attack(path: Path, content: Content) -> None:
        whole = content_bytes(content)
        path.write_bytes(whole[: round(part * len(whole))])
        os.kill(os.getpid(), signal.SIGKILL)

    _on_write(lambda count: count == number, attack, kind)


def die_behind_training(number: int, file: str, other: str) -> None:
    """SIGKILL in the `number`-th write of a checkpoint's `file`, half of it on the disk, when the training has gone on to write `other`.

    Or when it waits for the checkpoint.
    """
    reached, waiting = threading.Event(), threading.Event()
    write_synced, wait = files._write_synced, BackgroundWriter.wait

    def write(path: Path, content: Content) -> None:
        write_synced(path, content)
        if path.name.endswith(other):
            reached.set()

    def marked_wait(writer: BackgroundWriter) -> None:
        waiting.set()
        wait(writer)
        waiting.clear()

    def attack(path: Path, content: Content) -> None:
        assert threading.current_thread() is not threading.main_thread()
        reached.clear()
        whole = content_bytes(content)
        path.write_bytes(whole[: len(whole) // 2])
        while not (reached.is_set() or waiting.is_set()):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    BackgroundWriter.wait = marked_wait  # type: ignore[method-assign]
    files._write_synced = write
    _on_write(lambda count: count == number, attack, f"checkpoints/step_/{file}")


def fill_disk(number: int, kind: str | None = None) -> None:
    """From the `number`-th write of a file (of a kind) on, half of it gets onto the disk, and the system says that there is no space."""

    def attack(path: Path, content: Content) -> None:
        whole = content_bytes(content)
        path.write_bytes(whole[: len(whole) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    _on_write(lambda count: count >= number, attack, kind)


def fill_shards(room: int) -> None:
    """The disk has room for so many bytes of a teacher's store; of the write that is too long as much as fits gets there."""
    left = [room]
    write = shards._write

    def limited(descriptor: int, content: bytes) -> None:
        part, left[0] = content[: left[0]], left[0] - len(content[: left[0]])
        write(descriptor, part)
        if len(part) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shards._write = limited


def take_disk_away(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Files with this ending cannot be read any more: their handle on a network disk is stale."""
    read_bytes = Path.read_bytes

    def stale(path: Path) -> bytes:
        if path.suffix == suffix:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", stale)


def die_before_change(folder: Path, number: int) -> None:
    """SIGKILL before the `number`-th change of `folder`: a file opened to be written, moved or removed, a folder made or removed."""

    def attack(count: int, _: str) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _on_change(folder, attack)


def record(folder: Path, log: Path) -> None:
    """Writes to `log` a line for each write (`write` and which file) and each change (`change` and which) of the run in `folder`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _on_change(folder, lambda _, change: os.write(descriptor, f"change {change}\n".encode()))
    write_synced = files._write_synced

    def write(path: Path, content: Content) -> None:
        if path.is_relative_to(folder):  # a store, whose mark is written by who comes first, lies elsewhere
            os.write(descriptor, f"write {kind_of(path.relative_to(folder))}\n".encode())
        write_synced(path, content)

    files._write_synced = write


def kind_of(path: Path) -> str:
    """Returns what all files of one kind have in common: the path without the step and without the marks of an unfinished write."""
    return "/".join(re.sub(r"^\.?unfinished-|\d{3,}", "", part.lstrip(".")) for part in path.parts)


def _on_write(struck: Callable[[int], bool], attack: Callable[[Path, Content], None], kind: str | None = None) -> None:
    """Calls `attack` in the writes whose number is `struck`, of all or of those of a kind; the training and its thread both write."""
    write_synced, numbers = files._write_synced, itertools.count(1)

    def write(path: Path, content: Content) -> None:
        if (kind is None or f"/{kind_of(path)}".endswith(f"/{kind}")) and struck(next(numbers)):
            attack(path, content)
        write_synced(path, content)

    files._write_synced = write


def _on_change(folder: Path, attack: Callable[[int, str], object]) -> None:
    numbers = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and arguments[2] & _OPENED_TO_WRITE):
            path = arguments[0]
            inside = isinstance(path, (str, os.PathLike)) and str(folder) in os.fspath(path)
            if inside or (event in _CHANGES and arguments[-1] >= 0):  # a path within a folder that is open, as rmtree names it
                attack(next(numbers), f"{event} {path}")

    sys.addaudithook(hook)
