"""OwnSplit: a map-style Dataset of the user's own as a split, whose images are drawn by counted seeds."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mutual.data.datasets.own.labels import parse_label
from mutual.data.files.conversion import to_pixels
from mutual.data.files.decoding import WRONG_PATHS, ImageError
from mutual.data.seeding import seeded_generators
from mutual.recipe import derive_seed, describe_error

NUM_SAMPLES = 16
"""So many images, spread evenly over a split, are in its fingerprint."""


class LabelError(ImageError):
    """An item has another label than is known of it; `str(error)` is one line that names it."""

    def _describe(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Items:
    """The items of a Dataset, and what its errors name.

    Attributes:
        dataset: has `__len__` and `__getitem__`.
        title: what the split is called, `the train images of my_data:make`.
        function: what made it, by which errors tell the user's code from that of libraries.
    """

    dataset: Any
    title: str
    function: Callable[..., Any]

    def name(self, index: int) -> str:
        """Returns what an item is called in messages."""
        return f"item {index} of {self.title}"

    def read(self, index: int, *, seed: int) -> tuple[object, object]:
        """Returns the image and the label of an item, read while all that it may draw from is seeded.

        Raises:
            ImageError: the Dataset fails there, or gives something else.
            OSError: the disk or the machine failed.
        """
        try:
            with seeded_generators(seed):
                item = self.dataset[index]
        except MemoryError as error:
            raise OSError(errno.ENOMEM, "not enough memory to read the image", self.name(index)) from error
        except (Exception, SystemExit) as error:  # the user's code, which may raise anything
            raise self.failure(index, error) from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            form = f"{len(item)} values" if isinstance(item, tuple | list) else type(item).__name__
            raise ImageError(self.name(index), f"it is {form}, not (image, label)")
        return item[0], item[1]

    def failure(self, index: int, error: BaseException) -> ImageError | OSError:
        """Returns the error to raise for one of the user's code: an OSError where the machine is to blame, and not the item."""
        if isinstance(error, OSError) and error.errno is not None and error.errno not in WRONG_PATHS | {errno.ENOENT}:
            return OSError(error.errno, error.strerror, error.filename)
        return ImageError(self.name(index), describe_error(error, self.function))


@dataclass(frozen=True, eq=False)
class OwnSplit:
    """Items of a Dataset of the user's own, at `indices`; `channels` says with how many their images are read."""

    items: Items
    indices: Tensor
    labels: Tensor
    channels: int

    def image(self, index: int) -> Tensor:
        """Returns the image, uint8 `[C, H, W]`, as one fixed seed draws it."""
        return self.draw(index, seed=derive_seed(0, "item", index))

    def draw(self, index: int, *, seed: int) -> Tensor:
        """Returns the image, uint8 `[C, H, W]`; what its Dataset draws depends on `seed` alone.

        Raises:
            ImageError: it cannot be read, or its label is not what it was.
            OSError: the disk or the machine failed.
        """
        number = int(self.indices[index])
        image, label = self.items.read(number, seed=seed)
        try:
            pixels = to_pixels(image, self.channels)
            found = parse_label(label, multi_label=self.labels.dim() == 2)
        except MemoryError as error:
            raise OSError(errno.ENOMEM, "not enough memory to read the image", self.name(index)) from error
        except ValueError as error:
            raise ImageError(self.name(index), str(error)) from error
        except Exception as error:  # Pillow reads an image's file only now
            raise self.items.failure(number, error) from error
        known = self.labels[index]
        if found != (known.tolist() if known.dim() else int(known)):
            raise LabelError(
                self.name(index), f"its label is {found}, and not {known.tolist()}, as it was or as the Dataset's `targets` or `labels` say"
            )
        return pixels

    def decoded_as(self, channels: int) -> OwnSplit:
        """Returns the same images, read with so many channels."""
        return replace(self, channels=channels)

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        return self.items.name(int(self.indices[index]))

    def select(self, indices: Tensor) -> OwnSplit:
        """Returns the split's images at `indices`, in their order."""
        return replace(self, indices=self.indices[indices], labels=self.labels[indices])

    def sample(self) -> bytes:
        """Returns the pixels of `NUM_SAMPLES` images; of one that cannot be read, nothing."""
        content = b""
        for index in spread(len(self.labels), NUM_SAMPLES):
            try:
                content += self.image(index).numpy().tobytes()
            except ImageError:  # it is named where it is asked for
                continue
        return content


def spread(length: int, number: int) -> list[int]:
    """Returns up to `number` indices, spread evenly over `length` of them from the first to the last.

    Example:
        >>> spread(10, 4), spread(2, 4)
        ([0, 3, 6, 9], [0, 1])
    """
    return sorted({round(index) for index in torch.linspace(0, length - 1, min(length, number)).tolist()})
