"""ShardIndex: where the images of a WebDataset shard lie, and their labels, so that each is read at random by one read.

Files whose names are equal up to the first dot of the last part are a sample; what follows the dot is the file's extension. An index is a
function of the shard and of which label is read, and knows by the shard's size and time of change whether it is of the shard as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mutual.data.datasets.shards.tar import BLOCK, TarMember, TarReader
from mutual.data.files.listing import IMAGE_SUFFIXES
from mutual.recipe import format_value

LABEL_KEYS = ("label", "cls", "class")
"""Where the recipe does not say which, the keys of a sample's .json of which the first that is there is its label."""
_FORMAT = 1
_MAX_JSON = 2**20
_MAX_TEXT = 2**16
"""Characters of a label, which may be a list."""
_MAX_DIGITS = 18
_DTYPES = {"offsets": np.int64, "sizes": np.int64, "headers": np.uint64, "label_ids": np.int32, "name_ends": np.int64, "names": np.uint8}


@dataclass(frozen=True)
class ShardIndex:
    """Where the images of a shard lie and what their labels are.

    Attributes:
        path: the shard.
        size: its bytes, when the index was made.
        modified: when it was changed before, in nanoseconds.
        offsets: where the content of each image begins `[N]`.
        sizes: their bytes `[N]`.
        headers: digests of the headers before them `[N]`.
        label_ids: for each the number of its label in `labels`, or -1 for none `[N]`.
        name_ends: where the name of each ends in `names` `[N]`.
        names: all names, one behind the other (bytes).
        labels: the different labels: each a class number, a name, a list of these, or `{"bad": REASON}`.
    """

    path: Path
    size: int
    modified: int
    offsets: np.ndarray
    sizes: np.ndarray
    headers: np.ndarray
    label_ids: np.ndarray
    name_ends: np.ndarray
    names: np.ndarray
    labels: tuple[Any, ...]

    def name(self, index: int) -> str:
        """Returns what an image is called in messages."""
        start = int(self.name_ends[index - 1]) if index else 0
        return f"{self.path}/{os.fsdecode(self.names[start : int(self.name_ends[index])].tobytes())}"

    def to_bytes(self) -> bytes:
        """Returns the content of a file that `from_bytes` reads: arrays as safetensors have them, which are data and never code."""
        arrays = {name: getattr(self, name) for name in _DTYPES}
        about = {"format": _FORMAT, "size": self.size, "modified": self.modified, "labels": self.labels}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        arrays["digest"] = _digest(arrays)
        return save(arrays)

    @classmethod
    def from_bytes(cls, content: bytes, path: Path, status: os.stat_result) -> ShardIndex | None:
        """Returns the index of the shard at `path` with this `status`, or None where `content` is damaged or of a shard as it was."""
        try:
            arrays = load(content)
            if any(arrays[name].dtype != dtype or arrays[name].ndim != 1 for name, dtype in _DTYPES.items()):
                return None
            if not np.array_equal(_digest(arrays), arrays["digest"]):
                return None
            about = json.loads(arrays["about"].tobytes())
            if (about["format"], about["size"], about["modified"]) != (_FORMAT, status.st_size, status.st_mtime_ns):
                return None
            columns = {name: arrays[name] for name in _DTYPES}
            index = cls(path=path, size=about["size"], modified=about["modified"], labels=tuple(about["labels"]), **columns)
            return index if index._is_consistent() else None
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError):
            return None

    def _is_consistent(self) -> bool:
        """Returns whether nothing in it points beyond the shard, the names or the labels: it may be anybody's."""
        number = len(self.offsets)
        if any(len(each) != number for each in (self.sizes, self.headers, self.label_ids, self.name_ends)):
            return False
        ends = np.concatenate([np.zeros(1, dtype=np.int64), self.name_ends])
        inside = (self.offsets >= BLOCK) & (self.sizes >= 0) & (self.sizes <= self.size) & (self.offsets <= self.size - self.sizes)
        labelled = (self.label_ids >= -1) & (self.label_ids < len(self.labels))
        known = all(_is_label(label) or (isinstance(label, dict) and isinstance(label.get("bad"), str)) for label in self.labels)
        return bool(known and inside.all() and labelled.all() and (np.diff(ends) >= 0).all() and ends[-1] == len(self.names))


def make_index(path: Path, label_key: str | None) -> ShardIndex:
    """Reads the headers and labels of a shard; `label_key`: which key of a sample's .json is its label.

    Raises:
        ValueError: it is no whole tar archive of plain files, or its samples are not as WebDataset has them.
        OSError: the disk or the machine failed.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe may never return
        raise ValueError(f"{path}: it is no file")
    with path.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        _expect_random_reads(file.fileno())
        reader = TarReader(file.fileno(), path)
        samples = _Samples(path, label_key)
        for member in reader.members():
            samples.add(member, reader)
        samples.end()
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ValueError(f"{path}: it is being written; start again when it is whole")
    return samples.index(before)


def header_digest(header: bytes) -> int:
    """Returns 64 bits by which a header is known again."""
    return int.from_bytes(hashlib.blake2b(header, digest_size=8).digest(), "little")


@dataclass
class _Samples:
    """What is known of the samples of a shard while its headers are read."""

    path: Path
    label_key: str | None
    _keys: set[bytes] = field(default_factory=set)
    _key: bytes | None = None
    _image: TarMember | None = None
    _labels: dict[bytes, str | None] = field(default_factory=dict)
    _ignored: list[str] = field(default_factory=list)
    _columns: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in _DTYPES if name != "names"})
    _names: bytearray = field(default_factory=bytearray)
    _label_ids: dict[str, int] = field(default_factory=dict)

    def add(self, member: TarMember, reader: TarReader) -> None:
        folder, slash, file = member.name.rpartition(b"/")
        stem, dot, extension = file.partition(b".")
        if not (stem and dot):
            return  # hidden, or without an extension: no part of a sample
        key, extension = folder + slash + stem, extension.lower()
        if key != self._key:
            self.end()
            if key in self._keys:
                raise self._fault(key, "comes twice, or its files do not follow one another; write those of each sample in sequence")
            self._keys.add(key)
            self._key = key
        if extension in _IMAGES:
            if self._image is not None:
                raise self._fault(key, f"has two images, {os.fsdecode(self._image.name)} and {os.fsdecode(member.name)}")
            self._image = member
        elif extension in _LABELS:
            if extension in self._labels:
                raise self._fault(key, f"has two files .{extension.decode()}")
            self._labels[extension] = _LABELS[extension](member, reader, self.label_key)
        elif len(self._ignored) < 3:
            self._ignored.append(os.fsdecode(extension))

    def end(self) -> None:
        """Ends a sample."""
        if self._key is not None and self._image is not None:
            self._append(self._image, next((label for each in _LABELS if (label := self._labels.get(each)) is not None), None))
        elif self._key is not None and self._labels:
            others = f", but .{', .'.join(self._ignored)}" if self._ignored else ""
            raise self._fault(self._key, f"has a label and no image ({', '.join(sorted(map(bytes.decode, _IMAGES)))}){others}")
        self._key, self._image, self._labels, self._ignored = None, None, {}, []

    def _append(self, image: TarMember, label: str | None) -> None:
        self._names += image.name
        row = {
            "offsets": image.offset,
            "sizes": image.size,
            "headers": header_digest(image.header),
            "label_ids": -1 if label is None else self._label_ids.setdefault(label, len(self._label_ids)),
            "name_ends": len(self._names),
        }
        for name, value in row.items():
            self._columns[name].append(value)

    def index(self, status: os.stat_result) -> ShardIndex:
        if not self._columns["offsets"]:
            raise ValueError(f"{self.path}: it holds no image ({', '.join(sorted(map(bytes.decode, _IMAGES)))})")
        return ShardIndex(
            path=self.path,
            size=status.st_size,
            modified=status.st_mtime_ns,
            names=np.frombuffer(bytes(self._names), dtype=np.uint8),
            labels=tuple(map(json.loads, self._label_ids)),
            **{name: np.array(column, dtype=_DTYPES[name]) for name, column in self._columns.items()},
        )

    def _fault(self, key: bytes, reason: str) -> ValueError:
        return ValueError(f"{self.path}: the sample {os.fsdecode(key[:200])} {reason}")


def _class_number(member: TarMember, reader: TarReader, label_key: str | None) -> str | None:
    """Returns the label in a .cls as JSON; None where the recipe says that a key of .json is the label."""
    if label_key is not None:
        return None
    content = reader.read(member.offset, min(member.size, 64)).strip()
    if member.size > 64 or not content.isdigit() or len(content) > _MAX_DIGITS:
        return _bad(f"its .cls holds {format_value(content.decode(errors='replace'))}, which is no class number")
    return str(int(content))


def _json_label(member: TarMember, reader: TarReader, label_key: str | None) -> str | None:
    """Returns the label in a .json as JSON, None where it holds none."""
    if member.size > _MAX_JSON:
        return _bad(f"its .json has {member.size:,} bytes, at most {_MAX_JSON:,} are read")
    try:
        document = json.loads(reader.read(member.offset, member.size), parse_int=_number)
    except (ValueError, RecursionError):
        return _bad("its .json is no JSON")
    if not isinstance(document, dict):
        return _bad("its .json holds no object")
    key = next((key for key in (LABEL_KEYS if label_key is None else (label_key,)) if document.get(key) is not None), None)
    if key is None:
        return None
    value = document[key]
    text = json.dumps(value) if _is_label(value) else ""
    if text and len(text) <= _MAX_TEXT:
        return text
    return _bad(f"{key} of its .json is {format_value(value)}, neither a class number nor a name, nor a list of them")


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf  # Python takes long for the longest


def _is_label(value: Any) -> bool:
    if isinstance(value, list):
        return all(not isinstance(each, list) and _is_label(each) for each in value)
    if isinstance(value, str):
        return bool(value) and not any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _bad(reason: str) -> str:
    return json.dumps({"bad": reason})


_IMAGES = frozenset(suffix[1:].encode() for suffix in IMAGE_SUFFIXES)
_LABELS: dict[bytes, Callable[[TarMember, TarReader, str | None], str | None]] = {b"cls": _class_number, b"json": _json_label}
"""By extension how a label is read; of several the first holds."""


def _digest(arrays: dict[str, np.ndarray]) -> np.ndarray:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted([*_DTYPES, "about"]):
        digest.update(arrays[name].data)
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _expect_random_reads(descriptor: int) -> None:
    """Lets the kernel read no more than what is asked for: most of a shard are pixels, which lie between the headers."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)


def concatenated(parts: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    """Returns the arrays one behind the other."""
    return np.concatenate([np.zeros(0, dtype=dtype), *parts])
