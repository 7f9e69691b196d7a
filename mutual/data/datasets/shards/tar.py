"""Tar archives: where the content of each regular file in one lies, told from the headers alone.

Whatever an archive says of itself is checked against its size before anything is read or allocated for it. Old (V7), POSIX (ustar, pax) and
GNU archives are read, with long names; what is no plain file (a link, a device, a sparse file) is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 512
"""Bytes of a header; contents are padded to whole blocks."""
_MAX_EXTENSION = 2**20
"""Bytes of a long name or of the records of an extended header."""
_READ_BYTES = 4096
"""A header, a small content and the next header are read together."""
_END = bytes(BLOCK)
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"M": "the rest of a file of another volume",
}
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
"""By the first bytes of a compressed file how it is compressed, and the command that unpacks it."""


@dataclass(frozen=True)
class TarMember:
    """A regular file in an archive: `size` bytes from `offset` on, behind its `header` of one block."""

    name: bytes
    offset: int
    size: int
    header: bytes


class TarReader:
    """An open archive, read at random.

    Args:
        descriptor: of the open file.
        path: where it lies, for messages.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._path = path
        self._start, self._buffer = 0, b""

    def read(self, offset: int, size: int) -> bytes:
        """Returns `size` bytes, or fewer at the end of the file."""
        first = offset - self._start
        if first < 0 or first + size > len(self._buffer):
            self._start, self._buffer, first = offset, os.pread(self._descriptor, max(size, _READ_BYTES), offset), 0
        return self._buffer[first : first + size]

    def members(self) -> Iterator[TarMember]:
        """Yields the regular files of the archive in their order.

        Raises:
            ValueError: it is no tar archive, or compressed, damaged or cut, or holds what is no plain file.
        """
        offset, extension = 0, _Extension()
        while (header := self._header(offset)) != _END:
            kind, size, offset = header[156:157], self._number(header, offset), offset + BLOCK
            if kind in b"xgLK":
                self._check_inside(f"an extended header at byte {offset:,}", offset, size)
                if size > _MAX_EXTENSION:
                    raise self._fault(f"an extended header at byte {offset:,} has {size:,} bytes, at most {_MAX_EXTENSION:,} are read")
                self._extend(extension, kind, self.read(offset, size), offset)
                offset = _next_block(offset + size)
                continue
            name = extension.name or _name(header)
            size, extension = size if extension.size is None else extension.size, _Extension()
            if kind in b"5V" or (kind in b"0\0" and name.endswith(b"/")):  # a folder, or the archive's label
                continue
            if kind not in b"0\x007":
                raise self._fault(
                    f"{_shown(name)} is {_REFUSED.get(kind, f'of an unknown type ({_shown(kind)})')}; put plain files into shards"
                )
            self._check_inside(_shown(name), offset, size)
            yield TarMember(name, offset, size, header)
            offset = _next_block(offset + size)
        if not extension.is_empty:
            raise self._fault("it ends behind an extended header; it is damaged, make it anew")

    def _header(self, offset: int) -> bytes:
        header = self.read(offset, BLOCK)
        if header == _END:
            return header
        if offset == 0:
            self._check_start(header)
        if len(header) < BLOCK:
            raise self._fault(f"it has no end (zeros) behind its {self.size:,} bytes: it was cut as it was written or copied; make it anew")
        stored = _octal(header[148:156])
        if stored is None or stored != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise self._fault("it is no tar archive" if offset == 0 else f"it is damaged at byte {offset:,}; make it anew")
        return header

    def _check_start(self, header: bytes) -> None:
        if not header:
            raise self._fault("it is empty; make it anew")
        for start, (method, command) in _COMPRESSED.items():
            if header.startswith(start):
                raise self._fault(f"it is compressed ({method}), so that no image in it can be read by itself; unpack it: {command} FILE")

    def _check_inside(self, what: str, offset: int, size: int) -> None:
        if size > self.size - offset:
            raise self._fault(
                f"{what} should have {size:,} bytes, behind its header are {self.size - offset:,}: the file was cut as it was written or "
                "copied, or is damaged; make it anew"
            )

    def _number(self, header: bytes, offset: int) -> int:
        field = header[124:136]
        size = int.from_bytes(field, "big") - (0x80 << 88) if field[0] == 0x80 else _octal(field)
        if size is None:  # a base-256 number is negative where it begins with 0xff
            raise self._fault(f"the header at byte {offset:,} says no valid size; it is damaged, make it anew")
        return size

    def _extend(self, extension: _Extension, kind: bytes, content: bytes, offset: int) -> None:
        if kind == b"L":
            extension.name = content.rstrip(b"\0")
        if kind not in b"xg":
            return
        records = _records(content)
        if records is None:
            raise self._fault(f"the extended header at byte {offset:,} is damaged; make it anew")
        if any(key.startswith(b"GNU.sparse") for key in records):
            raise self._fault("it holds a sparse file; put plain files into shards")
        if kind == b"g" and records.keys() & {b"path", b"size"}:
            raise self._fault(f"the extended header at byte {offset:,} gives all files one name or size; make it anew")
        extension.name = records.get(b"path", extension.name)
        if b"size" in records:
            if not re.fullmatch(rb"[0-9]{1,18}", records[b"size"]):
                raise self._fault(f"the extended header at byte {offset:,} says no valid size; it is damaged, make it anew")
            extension.size = int(records[b"size"])

    def _fault(self, reason: str) -> ValueError:
        return ValueError(f"{self._path}: {reason}")


@dataclass
class _Extension:
    """What extended headers say of the file behind them."""

    name: bytes = b""
    size: int | None = None

    @property
    def is_empty(self) -> bool:
        return not self.name and self.size is None


def _next_block(offset: int) -> int:
    return -(-offset // BLOCK) * BLOCK


def _octal(field: bytes) -> int | None:
    """Returns the number in a field of a header, or None where there is none."""
    digits = field.strip(b" \0")
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else None


def _name(header: bytes) -> bytes:
    name, prefix = (field.partition(b"\0")[0] for field in (header[:100], header[345:500]))
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name  # GNU archives have times there


def _records(content: bytes) -> dict[bytes, bytes] | None:
    """Returns the records `LENGTH KEY=VALUE` of an extended header, or None where it is damaged."""
    records, start = {}, 0
    while start < len(content) and content[start]:
        match = re.compile(rb"([0-9]{1,7}) ([^=]+)=").match(content, start)
        end = start + int(match[1]) if match else 0
        if match is None or end > len(content) or end <= match.end() or content[end - 1 : end] != b"\n":
            return None
        records[match[2]] = content[match.end() : end - 1]
        start = end
    return records


def _shown(name: bytes) -> str:
    return os.fsdecode(name[:200])
