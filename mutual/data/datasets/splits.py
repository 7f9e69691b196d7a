"""Splits: the images and labels of one side of a data set, in memory, in files or made up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mutual.data.files.decoding import ImageSource, read_file
from mutual.data.files.listing import path_prefix
from mutual.data.files.paths import PathArray
from mutual.recipe import derive_seed


class Split(Protocol):
    """Labels `[N]` and decoded images."""

    @property
    def labels(self) -> Tensor:
        """Class indices `[N]` (-1: unknown), or flags (float32) `[N, C]` of several labels each."""
        ...

    def image(self, index: int) -> Tensor:
        """Returns the image, uint8 `[C, H, W]`.

        Raises:
            ImageError: it cannot be read.
            OSError: the disk or the machine failed.
        """
        ...

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        ...

    def select(self, indices: Tensor) -> Split:
        """Returns the split's images at `indices`, in their order."""
        ...


@dataclass(frozen=True)
class MemorySplit:
    """Images `[N, C, H, W]` (uint8) held in memory, so that a batch is one gather."""

    images: Tensor
    labels: Tensor

    def image(self, index: int) -> Tensor:
        """Returns the image, uint8 `[C, H, W]`."""
        return self.images[index]

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        return f"image {index}"

    def select(self, indices: Tensor) -> MemorySplit:
        """Returns the split's images at `indices`, in their order."""
        return MemorySplit(self.images[indices], self.labels[indices])


class EncodedSplit(ABC):
    """Images as contents of files of any format and size, decoded when they are asked for; `channels` says with how many."""

    labels: Tensor
    channels: int

    @abstractmethod
    def source(self, index: int) -> ImageSource:
        """Returns the image, opened and not decoded.

        Raises:
            ImageError: it cannot be read.
            OSError: the disk or the machine failed.
        """

    @abstractmethod
    def decoded_as(self, channels: int) -> EncodedSplit:
        """Returns the same images, decoded with so many channels."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""

    @abstractmethod
    def select(self, indices: Tensor) -> EncodedSplit:
        """Returns the split's images at `indices`, in their order."""

    @abstractmethod
    def portable_names(self) -> Iterator[str]:
        """Yields a name of each image that is the same wherever the data are moved to; the fingerprint holds them."""

    def content(self, index: int) -> bytes:
        """Returns the content of the image's file, which need be no image where it can be had without being opened as one.

        Raises:
            ImageError: it cannot be read.
            OSError: the disk or the machine failed.
        """
        return self.source(index).content

    def image(self, index: int) -> Tensor:
        """Returns the image, uint8 `[C, H, W]`."""
        return self.source(index).whole()


class FileSplit(EncodedSplit):
    """Image files, whose paths take no object each: what a million of them take is shared by all loader processes.

    Args:
        paths: the files.
        roots: for each the folder below which it was listed, or was to be found.
        labels: class indices `[N]`, or flags `[N, C]`.
        channels: with how many they are decoded.

    Attributes:
        paths: the files.
    """

    def __init__(self, paths: Iterable[Path], roots: Sequence[Path], labels: Tensor, channels: int) -> None:
        self.paths = paths if isinstance(paths, PathArray) else PathArray.of(paths)
        self.labels = labels
        self.channels = channels
        numbers: dict[Path, int] = {}
        runs = [(numbers.setdefault(root, len(numbers)), len(list(run))) for root, run in groupby(roots)]
        ids, lengths = np.array(runs, np.int64).reshape(-1, 2).T
        self._root_ids = np.repeat(ids.astype(np.min_scalar_type(len(numbers))), lengths)
        self._roots = tuple(numbers)
        assert len(self.paths) == len(self._root_ids) == len(labels)

    def source(self, index: int) -> ImageSource:
        """Returns the image, opened and not decoded."""
        return ImageSource(self.content(index), self.channels, path=self.paths[index])

    def content(self, index: int) -> bytes:
        """Returns the content of the file."""
        return read_file(self.paths[index])

    def decoded_as(self, channels: int) -> FileSplit:
        """Returns the same files, decoded with so many channels."""
        split = copy(self)
        split.channels = channels
        return split

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        return self.paths.text(index)

    def select(self, indices: Tensor) -> FileSplit:
        """Returns the split's images at `indices`, in their order."""
        chosen = indices.numpy()
        split = copy(self)
        split.paths, split.labels, split._root_ids = self.paths.select(chosen), self.labels[indices], self._root_ids[chosen]
        return split

    def labelled(self, labels: Tensor) -> FileSplit:
        """Returns the same files with other labels."""
        split = copy(self)
        split.labels = labels
        return split

    def portable_names(self) -> Iterator[str]:
        """Yields each file's path below its root, or its mere name where it lies elsewhere: the same wherever data are moved to."""
        prefixes = [(path_prefix(root), path_prefix(root.absolute())) for root in self._roots]
        for index, root in enumerate(self._root_ids.tolist()):
            text = self.paths.text(index)
            prefix = prefixes[root][text.startswith("/")]
            yield text[len(prefix) :] if text.startswith(prefix) else text.rpartition("/")[2]


@dataclass(frozen=True)
class FakeSplit:
    """Random images, each a function of `seed` and its index; there is nothing in them to learn."""

    indices: Tensor
    labels: Tensor
    shape: tuple[int, int, int]
    seed: int

    def image(self, index: int) -> Tensor:
        """Returns the image, uint8 `[C, H, W]`."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "fake", int(self.indices[index])))
        return torch.randint(0, 256, self.shape, dtype=torch.uint8, generator=generator)

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        return f"image {index}"

    def select(self, indices: Tensor) -> FakeSplit:
        """Returns the split's images at `indices`, in their order."""
        return FakeSplit(self.indices[indices], self.labels[indices], self.shape, self.seed)


@dataclass(frozen=True)
class ReadSplits:
    """What a reader finds of a data set: `val` and `test` only where they are splits of their own, and no fraction of `train`."""

    train: Split
    val: Split | None
    class_names: tuple[str, ...]
    test: Split | None = None
    notes: tuple[str, ...] = ()
