"""The disk of a run folder: its space, how fast it writes, how long a file takes to be safe, and whether locks hold there.

What is measured is what a training does: files are written, synchronised and renamed by `write_file`, a folder is locked by `locked`.
All of it stands in a temporary folder, which is removed.
"""

from __future__ import annotations

import errno
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from mutual.engine.diagnosis.redaction import redact, redact_error
from mutual.engine.diagnosis.rendezvous import run_with_timeout
from mutual.engine.storage import LOCK, locked, write_file

PREFIX = ".mutual-doctor-"
_MEGABYTE = 10**6
_FIRST, _WHOLE = 4 * _MEGABYTE, 64 * _MEGABYTE
_MOST_SECONDS = 1.5
"""What writing the whole may take by the speed of the first part; it is left out otherwise."""
_MOST_WAIT = 10.0
"""Seconds that an interrupted measurement has to remove its files."""
_FILES = 5
_REFUSED = 3
_LOCK_AGAIN = f"""
import errno, fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        sys.exit({_REFUSED} if error.errno in (errno.EACCES, errno.EAGAIN) else 1)
"""


@dataclass(frozen=True)
class RunDisk:
    """The disk of a run folder; bytes and seconds, and None for what was not measured.

    Attributes:
        folder: the folder, as it was given.
        measured: the folder itself, or the nearest one above it that is there.
        file_system: its kind, such as ext4 or nfs4.
        total_bytes: size of the disk.
        free_bytes: of these, what this user may write.
        written_bytes: size of the file that the speed was measured with.
        bytes_per_second: speed at which it was written, until it was safe on the disk.
        save_seconds: time of a small file until it has its name and is safe, as each file of a checkpoint takes at least.
        lock_seconds: time to lock and to unlock a folder.
        locks_hold: whether another process was refused a lock that this one had.
        error: what went wrong.
    """

    folder: str
    measured: str
    file_system: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    written_bytes: int | None = None
    bytes_per_second: float | None = None
    save_seconds: float | None = None
    lock_seconds: float | None = None
    locks_hold: bool | None = None
    error: str | None = None


def measure_run_disk(folder: Path, *, timeout: float = 30.0) -> RunDisk:
    """Measures the disk of `folder`, or of the nearest folder above it, and leaves nothing behind.

    A network's disk that does not answer in `timeout` seconds is one that has failed.
    """
    stopped, ended = threading.Event(), threading.Event()

    def measure() -> RunDisk:
        try:
            return _measure_run_disk(folder, stopped)
        finally:
            ended.set()

    try:
        return run_with_timeout(timeout, measure)
    except KeyboardInterrupt:  # its thread removes what it has written
        stopped.set()
        ended.wait(_MOST_WAIT)
        raise
    except TimeoutError as error:
        return RunDisk(redact(str(folder)), redact(str(folder)), "unknown", error=str(error))


def _measure_run_disk(folder: Path, stopped: threading.Event) -> RunDisk:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    disk = RunDisk(redact(str(folder)), redact(str(existing)), _file_system(existing))
    try:
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        usage = shutil.disk_usage(existing)
        disk = replace(disk, total_bytes=usage.total, free_bytes=usage.free)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=existing) as name:
            return _measure(disk, Path(name), stopped)
    except OSError as error:
        return replace(disk, error=redact_error(error))


def _measure(disk: RunDisk, folder: Path, stopped: threading.Event) -> RunDisk:
    save_seconds = statistics.median(_seconds_of(lambda: write_file(folder / "small", os.urandom(4096))) for _ in range(_FILES))
    written_bytes, bytes_per_second = _write_speed(folder / "large", stopped)
    if stopped.is_set():
        return disk
    lock_seconds, locks_hold = _lock(folder / "locked")
    return replace(
        disk,
        written_bytes=written_bytes,
        bytes_per_second=bytes_per_second,
        save_seconds=save_seconds,
        lock_seconds=lock_seconds,
        locks_hold=locks_hold,
    )


def _write_speed(path: Path, stopped: threading.Event) -> tuple[int, float]:
    """Returns how much was written, and how many bytes a second: of a slow disk a smaller file is enough."""
    piece = os.urandom(_MEGABYTE)  # a file system that compresses would write zeros at no cost
    size, speed = 0, 0.0
    for size in (_FIRST, _WHOLE):
        content = piece * (size // _MEGABYTE)
        speed = size / _seconds_of(lambda content=content: write_file(path, content))  # type: ignore[misc]
        if stopped.is_set() or _WHOLE / speed > _MOST_SECONDS:
            break
    return size, speed


def _lock(folder: Path) -> tuple[float, bool]:
    """Returns the time of a lock, and whether another process was refused it meanwhile."""

    def lock_once() -> None:
        with locked(folder):
            pass

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* knows no locks")  # it is a finding
        seconds = _seconds_of(lock_once)
        with locked(folder):
            done = subprocess.run([sys.executable, "-I", "-c", _LOCK_AGAIN, str(folder / LOCK)], capture_output=True, check=False)
    return seconds, done.returncode == _REFUSED


def _seconds_of(function: Callable[[], None]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def _file_system(folder: Path) -> str:
    """Returns the kind of the file system that `folder` is on, by the longest mount point above it."""
    resolved = folder.resolve()
    mounts = [each for each in psutil.disk_partitions(all=True) if resolved.is_relative_to(each.mountpoint)]
    return max(mounts, key=lambda each: len(each.mountpoint)).fstype if mounts else "unknown"
