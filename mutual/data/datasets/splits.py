"""Splits: the images and labels of one side of a data set, in memory, in files or made up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mutual.data.files.decoding import ImageSource, read_file
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


@dataclass(frozen=True)
class FileSplit(EncodedSplit):
    """Image files; `roots` are the folders below which each was listed."""

    paths: Sequence[Path]
    roots: Sequence[Path]
    labels: Tensor
    channels: int

    def source(self, index: int) -> ImageSource:
        """Returns the image, opened and not decoded."""
        return ImageSource(self.content(index), self.channels, path=self.paths[index])

    def content(self, index: int) -> bytes:
        """Returns the content of the file."""
        return read_file(self.paths[index])

    def decoded_as(self, channels: int) -> FileSplit:
        """Returns the same files, decoded with so many channels."""
        return replace(self, channels=channels)

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        return str(self.paths[index])

    def select(self, indices: Tensor) -> FileSplit:
        """Returns the split's images at `indices`, in their order."""
        chosen = indices.tolist()
        return FileSplit(
            [self.paths[index] for index in chosen], [self.roots[index] for index in chosen], self.labels[indices], self.channels
        )

    def portable_names(self) -> Iterator[str]:
        """Yields each file's path below its root, or its mere name where it lies elsewhere: the same wherever data are moved to."""
        prefixes = {root: (_prefix(root), _prefix(root.absolute())) for root in set(self.roots)}
        for path, root in zip(self.paths, self.roots, strict=True):
            prefix, text = prefixes[root][path.is_absolute()], str(path)
            yield text[len(prefix) :] if text.startswith(prefix) else path.name


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


def _prefix(folder: Path) -> str:
    return "" if folder == Path() else f"{folder}/".replace("//", "/")


def stratified_subset(labels: Tensor, size: int, *, seed: int) -> Tensor:
    """Returns `size` sorted random indices in which every class is as frequent as in `labels` (largest remainders).

    Where images have several labels, each combination of them is a class.

    Raises:
        ValueError: there are fewer images than that.
    """
    if size > len(labels):
        raise ValueError(f"subset: {size} images wanted, the training split has {len(labels)}")
    if labels.dim() == 2:
        labels = labels.unique(dim=0, return_inverse=True)[1]
    classes, counts = labels.unique(return_counts=True)
    exact = counts.double() * size / len(labels)
    quota = exact.floor().long()
    by_remainder = (exact - quota).argsort(descending=True, stable=True)
    quota[by_remainder[: size - int(quota.sum())]] += 1
    generator = torch.Generator().manual_seed(derive_seed(seed, "subset"))
    chosen = []
    for label, num_chosen in zip(classes.tolist(), quota.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:num_chosen]])
    return torch.cat(chosen).sort().values
