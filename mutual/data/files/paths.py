"""PathArray: the paths of many files in one array of bytes, which forked processes share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

_CHUNK = 2**16


class PathArray(Sequence[Path]):
    """Paths as bytes: a million take some 35 MB, where a million objects take hundreds, of which each process soon has a copy of its own.

    A path is one of a few prefixes, which many have in common, and the bytes behind it. Names may hold any bytes (`os.fsencode`).

    Args:
        prefixes: what paths begin with.
        prefix_ids: for each path the number of its prefix, `[N]`.
        ends: for each path where its other bytes end in `content`, `[N]`; they begin where those of the one before end.
        content: these bytes.
    """

    def __init__(
        self, prefixes: tuple[bytes, ...], prefix_ids: NDArray[np.unsignedinteger], ends: NDArray[np.int64], content: NDArray[np.uint8]
    ) -> None:
        self._prefixes = prefixes
        self._prefix_ids = prefix_ids
        self._ends = ends
        self._content = content

    @classmethod
    def of(cls, paths: Iterable[str | Path]) -> PathArray:
        """Returns the array of these paths, of which few are held as objects at a time."""
        rest = iter(paths)
        return cls.concatenate(cls._of_few(texts) for texts in iter(lambda: [os.fsencode(path) for path in islice(rest, _CHUNK)], []))

    @classmethod
    def _of_few(cls, texts: list[bytes]) -> PathArray:
        prefix = os.path.commonprefix(texts) or b""  # noqa: RUF071, character by character is what is meant
        ends = np.cumsum([len(text) - len(prefix) for text in texts], dtype=np.int64)
        content = b"".join(text[len(prefix) :] for text in texts)
        return cls((prefix,), np.zeros(len(texts), np.uint8), ends, np.frombuffer(content, np.uint8))

    @classmethod
    def concatenate(cls, arrays: Iterable[PathArray]) -> PathArray:
        """Returns the paths of one array behind those of another."""
        parts = list(arrays)
        prefixes: dict[bytes, int] = {}
        ids = [np.array([prefixes.setdefault(each, len(prefixes)) for each in part._prefixes]) for part in parts]
        smallest = np.min_scalar_type(len(prefixes))
        offsets = np.cumsum([0, *(len(part._content) for part in parts)])
        return cls(
            tuple(prefixes),
            np.concatenate(
                [own[part._prefix_ids].astype(smallest) for own, part in zip(ids, parts, strict=True)] or [np.zeros(0, smallest)]
            ),
            np.concatenate([part._ends + offset for part, offset in zip(parts, offsets, strict=False)] or [np.zeros(0, np.int64)]),
            np.concatenate([part._content for part in parts] or [np.zeros(0, np.uint8)]),
        )

    def text(self, index: int) -> str:
        """Returns a path as a string."""
        begin = self._ends[index - 1] if index else 0
        return os.fsdecode(self._prefixes[self._prefix_ids[index]] + self._content[begin : self._ends[index]].tobytes())

    def select(self, indices: NDArray[np.int64]) -> PathArray:
        """Returns the paths at `indices`, in their order."""
        begins = np.concatenate([np.zeros(1, np.int64), self._ends])[indices]
        lengths = self._ends[indices] - begins
        content = [np.zeros(0, np.uint8)]
        for first in range(0, len(indices), _CHUNK):  # a position in memory for each byte would take eight times what the bytes take
            begin, length = begins[first : first + _CHUNK], lengths[first : first + _CHUNK]
            ends = np.cumsum(length)
            content.append(self._content[np.arange(ends[-1]) + np.repeat(begin - (ends - length), length)])
        return PathArray(self._prefixes, self._prefix_ids[indices], np.cumsum(lengths, dtype=np.int64), np.concatenate(content))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> PathArray: ...

    def __getitem__(self, index: int | slice) -> Path | PathArray:
        positions = range(len(self))[index]
        if isinstance(positions, range):
            return self.select(np.arange(positions.start, positions.stop, positions.step))
        return Path(self.text(positions))
