"""Index files: the indices of shards, stored beside them or in the user's cache folder, and made where there is none of the shard as it is.

Of several processes that need one, of a launch or of several, one makes it and the others wait for it. Neither the files nor the waiting
change what is found: a process that can neither lock nor write makes the same index in its memory.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from mutual.data.datasets.shards.shard_index import ShardIndex, make_index
from mutual.data.files.writing import write_file

FOLDER = ".mutual-index"
"""Name of the folder of index files beside shards."""
_LOCK = "lock"
_THREADS = 8
"""Shards that are read at a time; on network drives a thread waits most of the time."""
_PATIENCE = 60.0
"""Seconds without a new index file after which a process no longer waits for the one that makes them."""
_MIN_FILE_BYTES = 2**20
_BUSY = (errno.EACCES, errno.EAGAIN)


def load_indices(paths: Sequence[Path], label_key: str | None) -> list[ShardIndex]:
    """Returns the index of each shard, read where it is stored and made otherwise; `label_key`: which key of a .json is the label.

    Raises:
        ValueError: a shard is damaged, or its samples are not as WebDataset has them.
        OSError: the disk or the machine failed.
    """
    indices: dict[Path, ShardIndex] = {}
    for folder, of_folder in groupby(sorted(paths, key=lambda path: path.parent), key=lambda path: path.parent):
        shards = list(of_folder)
        indices |= _stored(shards, label_key)
        missing = [path for path in shards if path not in indices]
        if missing:
            with _writing_to(_places(folder)) as place:
                indices |= _stored(missing, label_key)  # another process may have made them meanwhile
                indices |= _make([path for path in missing if path not in indices], label_key, place)
    return [indices[path] for path in paths]


def _stored(paths: Sequence[Path], label_key: str | None) -> dict[Path, ShardIndex]:
    found = {}
    for path in paths:
        status = path.stat()
        for place in _places(path.parent):
            file = place / _name(path, label_key)
            try:
                index = ShardIndex.from_bytes(file.read_bytes(), path, status) if _is_sane(file.stat(), status) else None
            except OSError:
                continue
            if index is not None:
                found[path] = index
                break
    return found


def _is_sane(index: os.stat_result, shard: os.stat_result) -> bool:
    """Returns whether an index may be read: it is a file, as reading a pipe may never return, and no larger than what it is of."""
    return stat.S_ISREG(index.st_mode) and index.st_size <= max(shard.st_size, _MIN_FILE_BYTES)


def _make(paths: Sequence[Path], label_key: str | None, place: Path | None) -> dict[Path, ShardIndex]:
    """Returns the indices of `paths`, made from the shards, and stores each in `place` as soon as it is made."""

    def make(path: Path) -> tuple[ShardIndex, OSError | None]:
        index = make_index(path, label_key)
        return index, None if place is None else _write(place / _name(path, label_key), index.to_bytes())

    indices, failed = {}, None
    bar = tqdm(total=len(paths), desc="index of shards", unit="shard", delay=1.0, file=sys.stderr, disable=not sys.stderr.isatty())
    pool = ThreadPoolExecutor(min(_THREADS, max(1, len(paths))))
    try:
        for path, (index, error) in zip(paths, pool.map(make, paths), strict=True):
            indices[path], failed = index, failed or error
            bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    if failed is not None:
        warnings.warn(f"{failed.filename}: {failed.strerror}; the index of shards is made anew at each start", stacklevel=2)
    return indices


def _write(file: Path, content: bytes) -> OSError | None:
    """Writes an index file, and returns why it was not written, or None; a torn one is known by its digest."""
    try:
        write_file(file, content, synced=False)
    except OSError as error:
        return error
    return None


def _name(path: Path, label_key: str | None) -> str:
    return f"{path.name}.index" if label_key is None else f"{path.name}.{_hash(label_key)}.index"


def _hash(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()


def _places(folder: Path) -> list[Path]:
    """Returns where the index files of the shards in `folder` may be: beside them, or in the user's cache folder."""
    beside = folder / FOLDER
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # a user without a home
        return [beside]
    return [beside, cache / "mutual" / "shards" / _hash(str(folder.absolute()))]


@contextmanager
def _writing_to(places: Sequence[Path]) -> Iterator[Path | None]:
    """Context in which this process alone makes index files, in the first of `places` that it can write to, or None.

    The lock is the kernel's and ends with the process; it is neither inherited by others nor needed for what is right.
    """
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError:
            continue
        try:
            _wait_for_lock(descriptor, place)
            yield place
        finally:
            os.close(descriptor)
        return
    warnings.warn(
        f"nothing can be written in {' or '.join(map(str, places))}; the index of shards is made anew at each start", stacklevel=4
    )
    yield None


def _wait_for_lock(descriptor: int, place: Path) -> None:
    """Locks the file, or gives up where its holder has made nothing for some time, or where the file system knows no locks."""
    changed, since = 0, time.monotonic()
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _BUSY:
                return
        else:
            return
        if (now := place.stat().st_mtime_ns) != changed:
            changed, since = now, time.monotonic()
        if time.monotonic() - since > _PATIENCE:
            return
        time.sleep(0.1)
