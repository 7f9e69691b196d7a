"""PreparedImages: images of a split in its order, prepared as evaluation images are, all or some of them, with their names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.data.datasets.splits import Split
from mutual.data.loading.dataset import TransformedDataset


@dataclass(frozen=True)
class PreparedImages:
    """Images of a split; `DataModule.prepared_batches` loads them.

    Attributes:
        split_name: `train`, `val` or `test`.
        split: all images of the split.
        indices: those that are selected `[N]`, in the split's order.
        dataset: prepares them.
    """

    split_name: str
    split: Split
    indices: Tensor
    dataset: TransformedDataset

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, position: int) -> str:
        """Returns what the image at `position` is called: its file, or its number in the split."""
        return self.split.name(int(self.indices[position]))

    def pixels(self, position: int) -> Tensor:
        """Returns the image at `position` as peers get it before they resize and normalise it, uint8 `[C, H, W]`.

        Raises:
            ImageError: it cannot be read.
            OSError: the disk or the machine failed.
        """
        return self.dataset.sample(position)


def evenly_spread(num_images: int, size: int | None) -> Tensor:
    """Returns the sorted indices of `size` of `num_images` images, or of all where there are no more.

    Example:
        >>> evenly_spread(10, 4)
        tensor([0, 2, 5, 7])
    """
    if size is None or size >= num_images:
        return torch.arange(num_images)
    return torch.arange(size) * num_images // size
