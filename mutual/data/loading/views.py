"""Views: how the images of a split are read and transformed, each once for all that is drawn of it, or anew for each draw."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from mutual.data.datasets.own.own_split import OwnSplit
from mutual.data.datasets.splits import EncodedSplit, Split
from mutual.data.files.decoding import ImageError
from mutual.data.transforms.pipelines import Pipeline, to_channels
from mutual.data.transforms.regions import RegionPlan, ShapeError
from mutual.recipe import derive_seed, first_line

Draws = Mapping[int, Sequence[Sequence[float]]]
"""By the number of an image's view (the epoch's, without counted views) what is drawn in each of the views that peers see of it."""


class TransformError(ImageError):
    """A transform does not take an image that was read; `str(error)` is one line that names the file and the reason."""

    def _describe(self) -> str:
        return f"{self.path}: {self.reason}"


class ViewReader(Protocol):
    """Reads one image."""

    def __call__(self, index: int, draws: Draws) -> dict[int, list[Tensor]]:
        """Returns the transformed image for each of `draws`, uint8 `[C, H, W]`; once for all of a number's views where these do not differ.

        Raises:
            ImageError: it cannot be read.
            OSError: the disk or the machine failed.
        """
        ...


def view_reader(split: Split, transform: Pipeline, *, region: RegionPlan | None, channels: int, seed: int) -> ViewReader:
    """Returns what reads the images of `split`.

    Args:
        split: the images.
        transform: what becomes of each.
        region: what is taken of each file before that, or None.
        channels: channels of the transformed images.
        seed: the recipe's seed.
    """
    # files are decoded as `predict` decodes them by the card: a colour image that is decoded as grey has lost what a peer of colour reads
    match split:
        case OwnSplit():
            return _DrawnImages(split.decoded_as(channels), transform, seed)
        case EncodedSplit() if region is not None:
            return _Regions(split.decoded_as(channels), transform, region)
        case EncodedSplit():
            return _WholeImages(split.decoded_as(channels), transform, channels)
        case _:
            return _WholeImages(split, transform, channels)


class _WholeImages:
    """Images that are the same in every view."""

    def __init__(self, split: Split, transform: Pipeline, channels: int) -> None:
        self._split = split
        self._transform = transform
        self._channels = channels

    def __call__(self, index: int, draws: Draws) -> dict[int, list[Tensor]]:
        image = to_channels(self._split.image(index), self._channels)
        image = apply_transform(self._transform, image, self._split.name(index))
        return {number: [image] * len(of_number) for number, of_number in draws.items()}


class _Regions:
    """Parts of files, each of which is read once, and decoded once at each scale."""

    def __init__(self, split: EncodedSplit, transform: Pipeline, region: RegionPlan) -> None:
        self._split = split
        self._transform = transform
        self._region = region

    def __call__(self, index: int, draws: Draws) -> dict[int, list[Tensor]]:
        source, name = self._split.source(index), self._split.name(index)

        def part(drawn: Sequence[float]) -> Tensor:
            with _blaming_transform(name, source.size):
                image = self._region(*source.size, drawn).read(source)
            return apply_transform(self._transform, image, name)

        if self._region.is_random:
            return {number: [part(drawn) for drawn in of_number] for number, of_number in draws.items()}
        image = part(())
        return {number: [image] * len(of_number) for number, of_number in draws.items()}


class _DrawnImages:
    """Images of the user's own Dataset, whose draws are those of the view's number."""

    def __init__(self, split: OwnSplit, transform: Pipeline, seed: int) -> None:
        self._split = split
        self._transform = transform
        self._seed = seed

    def __call__(self, index: int, draws: Draws) -> dict[int, list[Tensor]]:
        name = self._split.name(index)

        def image(number: int) -> Tensor:
            drawn = self._split.draw(index, seed=derive_seed(self._seed, "item", number, index))
            return apply_transform(self._transform, drawn, name)

        return {number: [image(number)] for number in draws}


def apply_transform(transform: Pipeline, image: Tensor, name: str) -> Tensor:
    """Returns `transform(image)`; `name` is what the image is called in messages.

    Raises:
        TransformError: the transform does not take the image.
        OSError: there is too little memory.
    """
    height, width = image.shape[-2:]
    with _blaming_transform(name, (height, width)):
        return transform(image)


@contextmanager
def _blaming_transform(name: str, size: tuple[int, int]) -> Iterator[None]:
    """Makes a TransformError that names the image, or an OSError, of what a transform of an image of `size` raises."""
    try:
        yield
    except ImageError:
        raise
    except (ValueError, RuntimeError) as error:  # torchvision's, for a crop or a padding that is larger than the image, say
        if "can't allocate memory" in str(error):
            raise OSError(errno.ENOMEM, "not enough memory to transform the image", name) from error
        reason = first_line(error)
        if not isinstance(error, ShapeError):
            height, width = size
            reason = f"the transforms do not take its {width} x {height} pixels: {reason}"
        raise TransformError(name, reason) from error
