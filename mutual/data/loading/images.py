"""Images: a split behind the deterministic transforms, from memory or decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mutual.data.datasets.splits import MemorySplit, Split
from mutual.data.files.decoding import ImageError
from mutual.data.files.image_store import ImageStore
from mutual.data.loading.batch import BadImage
from mutual.data.loading.plan import epoch_order
from mutual.data.loading.requests import OCCURRENCE_STRIDE, Request
from mutual.data.loading.views import Draws, apply_transform, view_reader
from mutual.data.transforms.draws import derive_keys, image_keys, uniforms
from mutual.data.transforms.pipelines import Pipeline, to_channels
from mutual.data.transforms.regions import NUM_DRAWS, RegionPlan

_MAX_CACHED_BYTES = 512 * 2**20
"""Images in memory are transformed once where they then take no more than this, and for each batch where they take more."""
_MAX_CONSECUTIVE_BAD = 1000
"""This many unreadable images in a row mean that the data are not there, and not that some are damaged."""


@dataclass(frozen=True)
class LoadedImages:
    """The images of a request.

    Attributes:
        images: for each view, or once for all of them, an image for each of the request's indices, uint8 `[C, H, W]`; stacked where they
            have one size anyway.
        source_index: the index of the image that each of them is, and whose label holds: another one than was asked for is a substitute.
        bad: the valid images that could not be read.
    """

    images: Sequence[Tensor | list[Tensor]]
    source_index: list[int]
    bad: tuple[BadImage, ...] = ()


class Images(Protocol):
    """Labels and deterministically transformed images of a split."""

    labels: Tensor

    def load(self, request: Request, views: Sequence[int]) -> LoadedImages:
        """Returns the images of `request` in these views.

        Raises:
            ImageError: one cannot be read, and is not to be skipped.
            OSError: the disk or the machine failed.
        """
        ...

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        ...


class MemoryImages:
    """Images in memory: a batch is one gather.

    Args:
        split: the images and labels.
        transform: what becomes of each image.
        channels: channels of the transformed images.
        image_size: their height and width.
    """

    def __init__(self, split: MemorySplit, transform: Pipeline, *, channels: int, image_size: tuple[int, int]) -> None:
        self.labels = split.labels
        self.name = split.name
        self._images = split.images
        self._channels = channels
        self._transform: Pipeline | None = transform
        if len(split.labels) * channels * image_size[0] * image_size[1] <= _MAX_CACHED_BYTES:
            self._images, self._transform = transform(to_channels(split.images, channels)), None

    def load(self, request: Request, _views: Sequence[int]) -> LoadedImages:
        """Returns the images of `request`, the same for all views."""
        images = self._images[request.indices]
        if self._transform is not None:
            images = apply_transform(self._transform, to_channels(images, self._channels), self.name(request.indices[0]))
        return LoadedImages([images], request.indices)


@dataclass(frozen=True)
class _Decoded:
    """An image, in each view or once for all, its index, and why it is not the one that was asked for, or empty."""

    images: list[Tensor]
    source_index: int
    reason: str = ""


class DecodedImages:
    """Images that are decoded, or made, for each batch; one that cannot be read is an error, is blank, or has a substitute.

    Args:
        split: the images and labels.
        transform: what becomes of each image.
        region: what is taken of each file before that, or None.
        channels: channels of the transformed images.
        image_size: their height and width.
        seed: the recipe's seed.
        skip_bad: an image that cannot be read is no error.
        substitute: with `skip_bad`, another image stands in for it; otherwise it is blank.
        substitute_groups: for each image the number of those among which a substitute is looked for first; None: all alike.
    """

    def __init__(
        self,
        split: Split,
        transform: Pipeline,
        *,
        region: RegionPlan | None,
        channels: int,
        image_size: tuple[int, int],
        seed: int,
        skip_bad: bool,
        substitute: bool,
        substitute_groups: Tensor | None = None,
    ) -> None:
        self.labels = split.labels
        self.name = split.name
        self._read_views = view_reader(split, transform, region=region, channels=channels, seed=seed)
        self._has_random_regions = region is not None and region.is_random
        self._channels = channels
        self._size = image_size
        self._seed = seed
        self._skip_bad = skip_bad
        self._substitute = substitute
        self._groups = None if substitute_groups is None else substitute_groups.numpy()
        self._order: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._store: ImageStore | None = None

    def deterministic(self, index: int) -> Tensor:
        """Returns what the deterministic transforms make of an image, uint8 `[C, H, W]`; the region that comes before them is not drawn.

        Raises:
            ImageError: it cannot be read.
            OSError: the disk or the machine failed.
        """
        assert not self._has_random_regions
        return self._read(index, {0: [()]})[0][0]

    def read_from(self, store: ImageStore) -> None:
        """Takes from now on what `deterministic` has made of each image from `store`."""
        self._store = store

    def load(self, request: Request, views: Sequence[int]) -> LoadedImages:
        """Returns the images of `request` in these views, or once for all where views do not differ yet.

        An image that occurs several times is read and decoded once.
        """
        keys = list(zip(request.indices, request.view_numbers, strict=True))
        draws_by_index: dict[int, dict[int, list[Sequence[float]]]] = {}
        for (index, number), draws in zip(keys, self._draws(request, views), strict=True):
            draws_by_index.setdefault(index, {})[number] = draws
        decoded = {index: self._decode(index, draws) for index, draws in draws_by_index.items()}
        rows = [decoded[index][number] for index, number in keys]
        bad = tuple(
            BadImage(self.name(index), row.reason, position)
            for position, ((index, _), row) in enumerate(zip(keys[: request.num_valid], rows, strict=False))
            if row.reason
        )
        by_view = [list(images) for images in zip(*(row.images for row in rows), strict=True)]
        images = [torch.stack(images) for images in by_view] if self._has_random_regions else by_view
        return LoadedImages(images, [row.source_index for row in rows], bad)

    def _draws(self, request: Request, views: Sequence[int]) -> list[list[Sequence[float]]]:
        """Returns for each image of the request, and each view, what its region is drawn from; nothing where it is not drawn."""
        if not self._has_random_regions:
            return [[()]] * len(request.indices)
        keys = [derive_keys(image_keys(self._seed, view, request.view_numbers, request.indices), 0) for view in views]
        draws: list[list[Sequence[float]]] = np.stack([uniforms(of_view, NUM_DRAWS) for of_view in keys], axis=1).tolist()
        return draws

    def _decode(self, index: int, draws: dict[int, list[Sequence[float]]]) -> dict[int, _Decoded]:
        """Returns the image for each number by which it is drawn, and what is drawn by that in each view."""
        try:
            return {number: _Decoded(images, index) for number, images in self._read(index, draws).items()}
        except ImageError as error:
            if not self._skip_bad:
                raise
            if len(draws) > 1:  # what fails as one number draws it may be readable as another does, whatever is loaded together
                return {number: self._decode(index, {number: of_number})[number] for number, of_number in draws.items()}
            ((number, of_number),) = draws.items()
            if not self._substitute:
                blank = torch.zeros(self._channels, *self._size, dtype=torch.uint8)
                return {number: _Decoded([blank] * len(of_number), index, error.reason)}
            return {number: self._next_readable(index, number, of_number, error)}

    def _next_readable(self, index: int, view: int, draws: list[Sequence[float]], error: ImageError) -> _Decoded:
        """Returns the next readable image of the epoch's permutation, a function of (seed, epoch, index) alone.

        The number of a view is an epoch's, too. Images of the same group go before others.
        """
        num_tries = min(len(self.labels) - 1, _MAX_CONSECUTIVE_BAD)
        for source_index in islice(self._substitutes(index, view % OCCURRENCE_STRIDE), num_tries):
            try:
                return _Decoded(self._read(source_index, {view: draws})[view], source_index, error.reason)
            except ImageError:  # it is named where it is asked for itself
                continue
        raise ImageError(error.path, f"{error.reason}; nor can the {num_tries} images be read that follow it in the epoch's order")

    def _read(self, index: int, draws: Draws) -> dict[int, list[Tensor]]:
        """Returns the image for each of `draws`."""
        stored = None if self._store is None else self._store.image(index)
        if stored is not None:
            return {number: [stored] * len(of_number) for number, of_number in draws.items()}
        return self._read_views(index, draws)

    def _substitutes(self, index: int, epoch: int) -> Iterator[int]:
        """Yields all other images in the order in which they stand in for the one at `index`."""
        order, positions = self._order_of(epoch)
        place = int(positions[index])
        places = range(place + 1, place + len(order))
        if self._groups is None:
            yield from (int(order[place % len(order)]) for place in places)
            return
        groups, group = self._groups, self._groups[index]
        for is_same in (True, False):
            yield from (int(other) for place in places if (groups[other := order[place % len(order)]] == group) == is_same)

    def _order_of(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the permutation of `epoch` and the position of each index in it, made once an epoch and not for each bad image."""
        if self._order is None or self._order[0] != epoch:
            order = np.array(epoch_order(len(self.labels), seed=self._seed, epoch=epoch))
            positions = np.empty(len(order), np.int64)
            positions[order] = np.arange(len(order))
            self._order = epoch, order, positions
        return self._order[1:]
