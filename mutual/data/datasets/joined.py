"""JoinedSplit: the images of two splits, one behind the other, wherever the contents of either lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mutual.data.datasets.splits import EncodedSplit
from mutual.data.files.decoding import ImageSource


@dataclass(frozen=True)
class JoinedSplit(EncodedSplit):
    """Images of two splits: `rows` of those of `first` with those of `second` behind them."""

    first: EncodedSplit
    second: EncodedSplit
    rows: Tensor
    labels: Tensor
    channels: int

    @classmethod
    def of(cls, first: EncodedSplit, second: EncodedSplit) -> JoinedSplit:
        """Returns all images of both, decoded as those of the first are."""
        labels = torch.cat([first.labels, second.labels])
        return cls(first, second.decoded_as(first.channels), torch.arange(len(labels)), labels, first.channels)

    def source(self, index: int) -> ImageSource:
        """Returns the image, opened and not decoded."""
        split, row = self._find(index)
        return split.source(row)

    def content(self, index: int) -> bytes:
        """Returns the content of the image's file."""
        split, row = self._find(index)
        return split.content(row)

    def decoded_as(self, channels: int) -> JoinedSplit:
        """Returns the same images, decoded with so many channels."""
        return replace(self, first=self.first.decoded_as(channels), second=self.second.decoded_as(channels), channels=channels)

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        split, row = self._find(index)
        return split.name(row)

    def select(self, indices: Tensor) -> JoinedSplit:
        """Returns the split's images at `indices`, in their order."""
        return replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def portable_names(self) -> Iterator[str]:
        """Yields each image's name in its own split, the same wherever either is moved to."""
        num_first = len(self.first.labels)
        is_first = self.rows < num_first
        first = self.first.select(self.rows[is_first]).portable_names()
        second = self.second.select(self.rows[~is_first] - num_first).portable_names()
        for in_first in is_first.tolist():
            yield next(first if in_first else second)

    def _find(self, index: int) -> tuple[EncodedSplit, int]:
        row, num_first = int(self.rows[index]), len(self.first.labels)
        return (self.first, row) if row < num_first else (self.second, row - num_first)
