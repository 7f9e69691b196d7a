"""Shards: files of fixed-size records, one written by each rank and all read by all; safe to kill at any instant.

A record is known by its key, the index of an image and the number of its view. A file only grows: each write appends the records of one
micro-batch, which count from the moment when the last of them is there. A record's checksum covers its key and its content, so that one
that was torn or altered is as good as none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import zlib
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
_HEADER = 4
"""Numbers (uint32) before a record's content: checksum, index, view, and how many records of the same write follow."""
_HEADER_BYTES = 4 * _HEADER
_NAME = re.compile(r"shard_\d{5,}\.bin")
_CHUNK_BYTES = 2**26
"""Read at once where files are scanned."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Shards:
    """The records of a store.

    Args:
        folder: where the files are.
        num_bytes: bytes of a record's content.
        num_images: images that are known; an index beyond them is damage.
        num_views: views of each, likewise.
        rank: this process among those that write.
        size: number of processes that write.

    Attributes:
        record_bytes: bytes that a record takes.

    Example:
        >>> import tempfile
        >>> shards = Shards(Path(tempfile.mkdtemp()), num_bytes=2, num_images=10, num_views=3)
        >>> shards.append(np.array([[7, 0], [7, 2]]), np.array([[1, 2], [3, 4]], dtype=np.uint8))
        >>> shards.read(np.array([[7, 2], [8, 2]]))[0].tolist(), shards.read(np.array([[7, 2], [8, 2]]))[1].tolist()
        ([[3, 4], [0, 0]], [True, False])
    """

    def __init__(self, folder: Path, *, num_bytes: int, num_images: int, num_views: int, rank: int = 0, size: int = 1) -> None:
        self._folder = folder
        self.record_bytes = _HEADER_BYTES + num_bytes
        self._num_images = num_images
        self._num_views = num_views
        self._numbers = count(rank, size)
        self._own: tuple[Path, int] | None = None
        first = folder / _file_name(rank)  # of several records of a key the first holds, and a run that is resumed goes on with its own
        self._files = [first] if first.exists() else []
        self._num_rows = [0] * len(self._files)
        self._maps: dict[int, Bytes] = {}
        self._index: dict[int, NDArray[np.int64]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Takes notice of what others have written."""
        for path in sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)):
            if path not in self._files:
                self._files.append(path)
                self._num_rows.append(0)
        for file in range(len(self._files)):
            self._scan(file)

    def has(self, keys_B2: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns for each key whether there is a record, which may turn out to be damaged when it is read."""
        return self._find(keys_B2) >= 0

    def read(self, keys_B2: NDArray[np.int64]) -> tuple[Bytes, NDArray[np.bool_]]:
        """Returns the contents `[B, N]` of the records, and which of them are there and whole."""
        places_B = self._find(keys_B2)
        records = self._gather(places_B)
        is_there_B = places_B >= 0
        is_there_B[is_there_B] = _checksums(records[is_there_B]) == _headers(records[is_there_B])[:, 0]
        is_there_B &= (_headers(records)[:, 1:3] == keys_B2).all(axis=1)
        return records[:, _HEADER_BYTES:], is_there_B

    def append(self, keys_B2: NDArray[np.int64], contents_BN: Bytes) -> None:
        """Writes records at the end of this process' own file.

        Raises:
            OSError: the disk is full, say; the file is as it was then.
        """
        path, descriptor = self._own = self._own or self._open_own()
        file, num_new = self._files.index(path), len(keys_B2)
        records = np.empty((num_new, self.record_bytes), dtype=np.uint8)
        headers = np.zeros((num_new, _HEADER), dtype=np.uint32)
        headers[:, 1:3], headers[:, 3] = keys_B2, np.arange(num_new)[::-1]
        records[:, :_HEADER_BYTES], records[:, _HEADER_BYTES:] = headers.view(np.uint8), contents_BN
        headers[:, 0] = _checksums(records)
        records[:, :_HEADER_BYTES] = headers.view(np.uint8)
        try:
            _write(descriptor, records.tobytes())
        except OSError as error:
            os.ftruncate(descriptor, self._num_rows[file] * self.record_bytes)
            error.filename = error.filename or str(path)
            raise
        self._add(file, self._num_rows[file], records)
        self._num_rows[file] += num_new

    def keys(self) -> NDArray[np.int64]:
        """Returns index and view `[R, 2]` of every record, in a fixed order."""
        found = [np.empty((0, 2), dtype=np.int64)]
        for view, places_N in sorted(self._index.items()):
            indices = np.flatnonzero(places_N >= 0)
            found.append(np.stack([indices, np.full_like(indices, view)], axis=1))
        return np.concatenate(found)

    def close(self) -> None:
        """Lets others write into this process' file."""
        if self._own is not None:
            os.fsync(self._own[1])
            os.close(self._own[1])
        self._own = None

    def _find(self, keys_B2: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns for each key its record's place, or -1; a place is the number of the file times 2^40 plus that of the row."""
        found = [self._index[view][index] if view in self._index else -1 for index, view in keys_B2.tolist()]
        return np.array(found, dtype=np.int64)

    def _gather(self, places_B: NDArray[np.int64]) -> Bytes:
        """Returns the records `[B, header + N]` at `places_B`, zeros where there is none."""
        records = np.zeros((len(places_B), self.record_bytes), dtype=np.uint8)
        files_B, rows_B = places_B >> 40, places_B & (2**40 - 1)
        for file in set(files_B[places_B >= 0].tolist()):
            of_file_B = (places_B >= 0) & (files_B == file)
            rows = rows_B[of_file_B]
            records[of_file_B] = self._mapped(file, int(rows.max()) + 1)[rows]
        return records

    def _mapped(self, file: int, num_rows: int) -> Bytes:
        """Returns the file's records as they lie on the disk, at least `num_rows` of them."""
        if file not in self._maps or len(self._maps[file]) < num_rows:
            shape = self._num_rows[file], self.record_bytes
            self._maps[file] = np.memmap(self._files[file], dtype=np.uint8, mode="r", shape=shape)
        return self._maps[file]

    def _scan(self, file: int) -> None:
        """Adds what was appended to a file since it was scanned last; of a write that is not finished nothing."""
        chunk = max(_CHUNK_BYTES // self.record_bytes, 1)
        while True:
            first_row = self._num_rows[file]
            records = self._read_rows(file, first_row, chunk)
            ends = np.flatnonzero(_headers(records)[:, 3] == 0)
            num_whole = int(ends[-1]) + 1 if len(ends) else 0
            self._add(file, first_row, records[:num_whole])
            self._num_rows[file] += num_whole
            if len(records) < chunk:
                return
            if num_whole == 0:  # one write is larger
                chunk *= 2

    def _read_rows(self, file: int, first_row: int, num_rows: int) -> Bytes:
        """Returns up to `num_rows` whole records; read and not mapped, as an unfinished end may be cut off at any time."""
        with self._files[file].open("rb") as opened:
            opened.seek(first_row * self.record_bytes)
            content = opened.read(num_rows * self.record_bytes)
        num_rows = len(content) // self.record_bytes
        return np.frombuffer(content, dtype=np.uint8, count=num_rows * self.record_bytes).reshape(num_rows, self.record_bytes)

    def _add(self, file: int, first_row: int, records: Bytes) -> None:
        """Notes where these records are; where there is one of a key already that is whole, it stays."""
        keys = _headers(records)[:, 1:3].astype(np.int64)
        places = (file << 40) + np.arange(first_row, first_row + len(records))
        is_known = (keys[:, 0] < self._num_images) & (keys[:, 1] < self._num_views)
        for view in np.unique(keys[is_known, 1]).tolist():
            places_N = self._index.setdefault(view, np.full(self._num_images, -1, dtype=np.int64))
            rows = np.flatnonzero(is_known & (keys[:, 1] == view))
            again = rows[places_N[keys[rows, 0]] >= 0]
            if len(again):
                _, is_whole = self.read(keys[again])
                rows = np.setdiff1d(rows, again[is_whole])
            places_N[keys[rows, 0]] = places[rows]

    def _open_own(self) -> tuple[Path, int]:
        """Returns the file that this process alone writes to, at the end of its last finished write."""
        for number in self._numbers:
            path = self._folder / _file_name(number)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
            if _locked(descriptor):
                break
            os.close(descriptor)  # another run writes there, or what is left of one that was killed
        self.refresh()
        os.ftruncate(descriptor, self._num_rows[self._files.index(path)] * self.record_bytes)
        return path, descriptor


def _file_name(number: int) -> str:
    return f"shard_{number:05}.bin"


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _locked(descriptor: int) -> bool:
    """Returns whether this process may write: nobody else has locked the file, or the disk knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True


def _headers(records: Bytes) -> NDArray[np.uint32]:
    return np.ascontiguousarray(records[:, :_HEADER_BYTES]).view(np.uint32).reshape(len(records), _HEADER)


def _checksums(records: Bytes) -> NDArray[np.uint32]:
    """Returns the checksum of each record's key and content."""
    return np.array([zlib.crc32(record[4:]) for record in np.ascontiguousarray(records)], dtype=np.uint32)
