"""A run folder's lock: one training at a time, known by host and process, and released as soon as that process has ended.

POSIX record locks hold between the machines of a network file system too, are not inherited by the loader's worker processes (which may
outlive a killed training by seconds), and end with the process. Within one process they do not exclude each other, which a set does.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mutual.recipe import InputError

LOCK = ".mutual-run.lock"
"""A name that no other program uses: what is there is overwritten and removed."""
_LOCKED: set[Path] = set()
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class LockWords:
    """How the line reads that says who holds a folder's lock."""

    activity: str = "trained in"
    holder: str = "run"
    remedy: str = "give another name=..."


@contextmanager
def locked(folder: Path, words: LockWords = LockWords()) -> Iterator[None]:
    """Context in which this process alone works in `folder`, which is created where there is none, and removed again if it stays empty.

    Raises:
        InputError: another process has locked it; the line names host and process.
        OSError: the folder cannot be created or written to.
    """
    lock_path = folder.resolve() / LOCK
    if lock_path in _LOCKED:  # opening the file once more, and closing it, would free the lock
        raise InputError(f"{folder} is being {words.activity} by this very process; wait for that {words.holder}, or {words.remedy}")
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        descriptor = _acquire(lock_path, folder, words)
        _LOCKED.add(lock_path)
        try:
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            yield
        finally:
            _LOCKED.discard(lock_path)
            lock_path.unlink(missing_ok=True)  # while it is locked: whoever has it open then notices, and opens the next one
            os.close(descriptor)
    finally:
        with suppress(OSError):  # the first that is not empty ends it
            for path in created:
                path.rmdir()


def check_not_in_training(folder: Path) -> None:
    """Refuses a folder in which a training runs; nothing in it is changed.

    Raises:
        InputError: one does; the line names host and process.
    """
    path = folder.resolve() / LOCK
    if path in _LOCKED:
        raise InputError(f"{folder} is being trained in by this very process; wait for that run")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:  # there is none, or nobody but its owner may know
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise InputError(f"{folder} is being trained in by {_holder(descriptor)}; wait for that run, or stop it") from error
    finally:
        os.close(descriptor)


def _acquire(path: Path, folder: Path, words: LockWords) -> int:
    """Returns the descriptor of the locked file; closing it, or the end of the process, frees the lock."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            _lock(descriptor, folder, words)
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has just ended and removed it


def _lock(descriptor: int, folder: Path, words: LockWords) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            warnings.warn(
                f"the file system of {folder} knows no locks ({error.strerror}): two trainings in it would not notice", stacklevel=2
            )
            return
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        raise InputError(
            f"{folder} is being {words.activity} by {_holder(descriptor)}; wait for that {words.holder}, stop it, or {words.remedy}"
        ) from error


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # it has not written its name yet
        return "another process"
