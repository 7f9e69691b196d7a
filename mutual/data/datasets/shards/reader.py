"""Shards: WebDataset tar files as splits, whose images are read at random, in the counted order, each by one read."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutual.data.datasets.shards.index_files import load_indices
from mutual.data.datasets.shards.labels import ShardLabels
from mutual.data.datasets.shards.paths import PREFIX, paths_by_split, shard_paths
from mutual.data.datasets.shards.shard_index import ShardIndex, concatenated, header_digest
from mutual.data.datasets.shards.tar import BLOCK
from mutual.data.datasets.splits import EncodedSplit, ReadSplits
from mutual.data.files.decoding import MAX_FILE_BYTES, ImageError, ImageSource
from mutual.recipe import Data

MAX_OPEN = 256
"""Shards that a process has open at a time; by default a system allows it 1,024 files, of which workers need some."""


def read_shards(spec: Data) -> ReadSplits:
    """Returns the splits of shards that `spec` names.

    Raises:
        ValueError: a shard is missing, damaged or in two splits, or a label is missing or wrong.
        OSError: the disk or the machine failed.
    """
    paths = paths_by_split(spec)
    _check_disjoint(paths)
    indices = load_indices([path for of_side in paths.values() for path in of_side], spec.label_field)
    by_path = {index.path: index for index in indices}
    labels = ShardLabels(spec, paths["train"][0].parent)
    splits = {}
    for side, of_side in paths.items():
        found = [by_path[path] for path in of_side]
        splits[side] = split_of(found, labels.of(found, side), spec.num_channels)
    return ReadSplits(splits["train"], splits.get("val"), labels.class_names, splits.get("test"))


def read_unlabelled_shards(spec: Data, name: str) -> ShardSplit:
    """Returns the images of the shards called `name` (`wds/...`), whose labels, if there are any, count as unknown.

    Raises:
        ValueError: a shard is missing or damaged.
        OSError: the disk or the machine failed.
    """
    indices = load_indices(shard_paths(name.removeprefix(PREFIX), spec.root, key="data.unlabelled"), spec.label_field)
    return split_of(indices, torch.full((sum(len(index.offsets) for index in indices),), -1), spec.num_channels)


def split_of(indices: Sequence[ShardIndex], labels: Tensor, channels: int) -> ShardSplit:
    """Returns the images of shards in their order."""
    return ShardSplit(ShardFiles(indices), np.arange(len(labels)), labels, channels)


def _check_disjoint(paths: dict[str, list[Path]]) -> None:
    sides: dict[str, str] = {}
    for side, of_side in paths.items():
        for path in of_side:
            other = sides.setdefault(os.path.realpath(path), side)
            if other != side:
                raise ValueError(f"{path} is a shard of {other} and of {side}; name each in one of data.dataset, data.val and data.test")


class ShardFiles:
    """The images in some shards, as arrays; of many shards those are open that were read last, `MAX_OPEN` in each process.

    An image is read together with the header before it, by which it is known that the shard is the one that was indexed.
    """

    def __init__(self, indices: Sequence[ShardIndex]) -> None:
        self.paths = [index.path for index in indices]
        self._shards = np.repeat(np.arange(len(indices), dtype=np.int32), [len(index.offsets) for index in indices])
        self._offsets = concatenated([index.offsets for index in indices], np.int64)
        self._sizes = concatenated([index.sizes for index in indices], np.int64)
        self._headers = concatenated([index.headers for index in indices], np.uint64)
        self._names = concatenated([index.names for index in indices], np.uint8)
        lengths = [np.diff(index.name_ends, prepend=0) for index in indices]
        self._name_ends = np.cumsum(concatenated(lengths, np.int64))
        self._opened: OrderedDict[int, _Descriptor] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what is open in this process."""
        return {**self.__dict__, "_opened": OrderedDict()}

    def member(self, index: int) -> str:
        """Returns the name of an image in its shard."""
        start = int(self._name_ends[index - 1]) if index else 0
        return os.fsdecode(self._names[start : int(self._name_ends[index])].tobytes())

    def path(self, index: int) -> Path:
        """Returns the shard of an image."""
        return self.paths[self._shards[index]]

    def read(self, index: int) -> bytes:
        """Returns the content of an image's file.

        Raises:
            ImageError: it is empty or too large.
            OSError: the shard is not what it was when its index was made, or the disk or the machine failed.
        """
        size = int(self._sizes[index])
        if not 0 < size <= MAX_FILE_BYTES:
            reason = f"it has {size:,} bytes, at most {MAX_FILE_BYTES:,} are read" if size else "it is empty"
            raise ImageError(f"{self.path(index)}/{self.member(index)}", reason)
        content = self._open(int(self._shards[index])).read(size + BLOCK, int(self._offsets[index]) - BLOCK)
        if len(content) != size + BLOCK or header_digest(content[:BLOCK]) != int(self._headers[index]):
            raise OSError(errno.ESTALE, "it has changed since its index was made, at the start; start again", str(self.path(index)))
        return content[BLOCK:]

    def _open(self, shard: int) -> _Descriptor:
        descriptor = self._opened.pop(shard, None) or _Descriptor(self.paths[shard])
        self._opened[shard] = descriptor  # the last of them
        if len(self._opened) > MAX_OPEN:
            self._opened.popitem(last=False)
        return descriptor


class _Descriptor:
    """An open file; closed when nobody holds it any more, so that no thread reads from what another has closed.

    Processes that were forked may share it: a read names its place and moves nothing.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, size: int, offset: int) -> bytes:
        content = os.pread(self._descriptor, size, offset)
        while len(content) < size and (rest := os.pread(self._descriptor, size - len(content), offset + len(content))):
            content += rest  # some network drives give less than they are asked for
        return content


@dataclass(frozen=True)
class ShardSplit(EncodedSplit):
    """Images in shards: those of `files` at `rows`."""

    files: ShardFiles
    rows: np.ndarray
    labels: Tensor
    channels: int

    def source(self, index: int) -> ImageSource:
        """Returns the image, opened and not decoded."""
        return ImageSource(self.content(index), self.channels, path=self.name(index))

    def content(self, index: int) -> bytes:
        """Returns the content of the image's file."""
        return self.files.read(int(self.rows[index]))

    def decoded_as(self, channels: int) -> ShardSplit:
        """Returns the same images, decoded with so many channels."""
        return replace(self, channels=channels)

    def name(self, index: int) -> str:
        """Returns what the image is called in messages: its shard and its name there."""
        row = int(self.rows[index])
        return f"{self.files.path(row)}/{self.files.member(row)}"

    def select(self, indices: Tensor) -> ShardSplit:
        """Returns the split's images at `indices`, in their order."""
        return replace(self, rows=self.rows[indices.numpy()], labels=self.labels[indices])

    def portable_names(self) -> Iterator[str]:
        """Yields the name of each image's shard, without folders, and its own there."""
        for row in self.rows.tolist():
            yield f"{self.files.path(row).name}/{self.files.member(row)}"
