"""Loading: the samples of a cell as a Batch, in this process or in workers, each sample a function of (seed, epoch, index) alone."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mutual.data.batch import BadImage, Batch, Mix
from mutual.data.decoding import ImageError
from mutual.data.plan import Cell, EpochPlan, epoch_order, even_part
from mutual.data.splits import MemorySplit, Split, to_channels
from mutual.data.transforms import Pipeline, ShapeError, Transforms
from mutual.recipe import Data, derive_seed, first_line

_HELD_BYTES = 512 * 2**20
"""Images in memory are brought to their size once where they then take less than this, and in every epoch where they take more."""
_MOST_IN_A_ROW = 1000
"""So many unreadable images in a row mean that the data are not there, and not that some are damaged."""
_REMEDY = "; mend it or take it out, `python -m mutual.data.check` finds all such files"
_SKIP = ", or set data.on_bad_image: skip"


class TransformError(ImageError):
    """A transform does not take an image that was read; `str(error)` is one line that names the file and the reason."""

    def _told(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Request:
    """One batch to load: `indices` of its images (the first B real or padding, the rest extra), and by whom they are mixed."""

    epoch: int
    indices: list[int]
    count: int
    total: int
    partners: list[int] | None = None
    """For each of the first B images the place of its partner among `indices`."""
    pairs: list[int] | None = None
    """For each of the first B images the number of its pair in the epoch, from which both draw one mix."""


@dataclass(frozen=True)
class Failure:
    """Why a batch could not be loaded; worker processes send it in place of an exception, which would arrive as a traceback's text."""

    error: ImageError | OSError
    """An OSError where the disk or the machine failed, and not the image."""

    def told(self, epoch: int | None, *, skips: bool) -> ImageError | OSError:
        """Returns the exception to raise for it; `epoch` (0 is the first) is None in evaluation, `skips`: data.on_bad_image is so."""
        match self.error:
            case OSError() as error:
                return OSError(error.errno or errno.EIO, error.strerror or str(error), error.filename)
            case TransformError(path=path, reason=reason):
                return TransformError(path, f"{reason} ({_when(epoch)}); add a resize before it, or take the image out")
            case ImageError(path=path, reason=reason):
                return ImageError(path, f"{reason} ({_when(epoch)}{_REMEDY}{'' if skips else _SKIP})")


def _when(epoch: int | None) -> str:
    return "evaluation" if epoch is None else f"epoch {epoch + 1}"


class Loaded(Dataset[Batch | Failure]):
    """A split behind its transforms: a list of one Request to a list of one Batch.

    Attributes:
        views: the numbers of the views that are made of each image; a view's draws depend on its number.
    """

    def __init__(
        self,
        split: Split,
        transforms: Transforms,
        *,
        data: Data,
        channels: int,
        image_size: tuple[int, int],
        seed: int,
        views: Sequence[int] = (0,),
        stand_ins: bool = False,
    ) -> None:
        """An image that cannot be read is an error or, with `data.on_bad_image: skip`, has a stand-in or (without `stand_ins`) is blank."""
        self._channels = channels
        self._size = image_size
        self._fixed_done = isinstance(split, MemorySplit) and len(split.labels) * channels * image_size[0] * image_size[1] <= _HELD_BYTES
        if isinstance(split, MemorySplit) and self._fixed_done:
            split = MemorySplit(transforms.fixed(to_channels(split.images, channels)), split.labels)
        self._split = split
        self._transforms = transforms
        self._seed = seed
        self.views = tuple(views)
        self._mixer = _Mixer(data.mixup, data.cutmix, image_size, seed) if data.mixup or data.cutmix else None
        self._skips = data.on_bad_image == "skip"
        self._stand_ins = stand_ins
        self._order: tuple[int, list[int], list[int]] | None = None

    def __getitems__(self, requests: Sequence[Request]) -> list[Batch | Failure]:
        """Loads one batch; torch's loader calls this with what the batch sampler gave."""
        (request,) = requests
        try:
            return [self._batch(request)]
        except (ImageError, OSError) as error:
            return [Failure(error)]

    def sample(self, index: int) -> Tensor:
        """Returns one transformed image, without counted draws; to look at its shape."""
        with torch.random.fork_rng(devices=[]):
            return self._drawn_once(index, self._read(index, epoch=0).image)

    def _batch(self, request: Request) -> Batch:
        bad: tuple[BadImage, ...] = ()
        if isinstance(self._split, MemorySplit) and not self._transforms.is_random:
            images, taken = self._gathered(request), request.indices
        else:
            read = {index: self._read(index, request.epoch) for index in dict.fromkeys(request.indices)}
            images = self._views({index: each.image for index, each in read.items()}, request)
            taken = [read[index].taken for index in request.indices]
            real = enumerate(request.indices[: request.count])
            bad = tuple(BadImage(self._split.name(index), read[index].reason, place) for place, index in real if read[index].reason)
        mix = None if self._mixer is None or request.partners is None else self._mixer(request)
        stacked = images[0] if len(images) == 1 else torch.stack(images)
        return Batch(stacked, self._split.labels[taken], request.count, request.total, mix, bad)

    def _gathered(self, request: Request) -> list[Tensor]:
        assert isinstance(self._split, MemorySplit)
        images = self._split.images[request.indices]
        return [images if self._fixed_done else self._transforms.fixed(to_channels(images, self._channels))] * len(self.views)

    def _views(self, images: Mapping[int, Tensor], request: Request) -> list[Tensor]:
        """Returns the images of each view; they have been read and decoded once for all."""
        if not self._transforms.is_random:
            return [torch.stack([images[index] for index in request.indices])] * len(self.views)
        return [self._drawn(request, images, view) for view in self.views]

    def _drawn(self, request: Request, images: Mapping[int, Tensor], view: int) -> Tensor:
        state = torch.get_rng_state()
        drawn = {}
        for index, image in images.items():
            torch.default_generator.manual_seed(derive_seed(self._seed, "augment", request.epoch, index, view))
            drawn[index] = self._drawn_once(index, image)
        torch.set_rng_state(state)
        return torch.stack([drawn[index] for index in request.indices])

    def _drawn_once(self, index: int, image: Tensor) -> Tensor:
        return self._transformed(index, image, self._transforms.drawn)

    def _transformed(self, index: int, image: Tensor, transform: Pipeline) -> Tensor:
        try:
            return transform(image)
        except (ValueError, RuntimeError) as error:  # torchvision's, for a crop or a padding that is larger than the image, say
            path, reason = self._split.name(index), first_line(error)
            if "can't allocate memory" in str(error):
                raise OSError(errno.ENOMEM, "not enough memory to transform the image", path) from error
            if not isinstance(error, ShapeError):
                height, width = image.shape[-2:]
                reason = f"the transforms do not take its {width} x {height} pixels: {reason}"
            raise TransformError(path, reason) from error

    def _read(self, index: int, epoch: int) -> _Read:
        """Returns the image, or with on_bad_image: skip what stands in for it in `epoch`, a function of (seed, epoch, index) alone."""
        try:
            return _Read(self._before_draws(index), index)
        except ImageError as error:
            if not self._skips:
                raise
            if not self._stand_ins:
                return _Read(torch.zeros(self._channels, *self._size, dtype=torch.uint8), index, error.reason)
            return self._next_readable(index, epoch, error)

    def _next_readable(self, index: int, epoch: int, error: ImageError) -> _Read:
        order, places = self._order_of(epoch)
        number = min(len(order) - 1, _MOST_IN_A_ROW)
        for step in range(1, number + 1):
            taken = order[(places[index] + step) % len(order)]
            try:
                return _Read(self._before_draws(taken), taken, error.reason)
            except ImageError:  # it is named where it is asked for itself
                continue
        raise ImageError(error.path, f"{error.reason}; nor can the {number} images be read that follow it in the epoch's order")

    def _order_of(self, epoch: int) -> tuple[list[int], list[int]]:
        """Returns the order of `epoch` and the place of each index in it, which are made once an epoch and not for each bad image."""
        if self._order is None or self._order[0] != epoch:
            order = epoch_order(len(self._split.labels), seed=self._seed, epoch=epoch)
            places = [0] * len(order)
            for place, index in enumerate(order):
                places[index] = place
            self._order = epoch, order, places
        return self._order[1:]

    def _before_draws(self, index: int) -> Tensor:
        image = self._split.image(index)
        if self._fixed_done:
            return image
        return self._transformed(index, to_channels(image, self._channels), self._transforms.fixed)


@dataclass(frozen=True)
class _Read:
    """An image before its draws, the index of the image that it is, and why that is another one than was asked for, or empty."""

    image: Tensor
    taken: int
    reason: str = ""


class TrainRequests:
    """The requests of an epoch for one part, from a window on; torch's loader takes it as its batch sampler."""

    def __init__(self, plan: EpochPlan, *, part: tuple[int, int], mixed: bool) -> None:
        """Loads part number part[0] of part[1]."""
        self.plan = plan
        self.part = part
        self.epoch = 0
        self.start = 0
        self._mixed = mixed

    def __iter__(self) -> Iterator[list[Request]]:
        epoch, order = self.epoch, self.plan.order(self.epoch)
        for window in range(self.start, self.plan.num_windows):
            for cell in self.plan.cells(window, *self.part):
                yield [self._request(cell, order, epoch)]

    def _request(self, cell: Cell, order: list[int], epoch: int) -> Request:
        positions = list(range(cell.begin, cell.end))
        count = len(positions)
        least = min(2, self.plan.batch_size)  # BatchNorm needs two images where the features of one are a single value
        positions += (positions or [cell.filler])[:1] * (least - count)
        if not self._mixed:
            return Request(epoch, [order[position] for position in positions], count, cell.total)
        # neighbours in the order are each other's partners, so that a mix depends on neither ranks nor batch size
        partners = [position ^ 1 if position ^ 1 < len(order) else position for position in positions]
        everyone = positions + [partner for partner in dict.fromkeys(partners) if partner not in positions]
        place = {position: index for index, position in reversed(list(enumerate(everyone)))}
        pairs = [position // 2 for position in positions]
        indices = [order[position] for position in everyone]
        return Request(epoch, indices, count, cell.total, [place[partner] for partner in partners], pairs)


def eval_requests(num_samples: int, batch_size: int, *, world_size: int, part: tuple[int, int]) -> list[list[Request]]:
    """Returns the part's share of each round of world_size * batch_size samples: every sample in exactly one part of part[1].

    All parts have equally many rounds; one without samples in a round gets a filler, with count 0.
    """
    requests = []
    for begin in range(0, num_samples, batch_size * world_size):
        total = min(batch_size * world_size, num_samples - begin)
        first, last = even_part(total, *part)
        indices = list(range(begin + first, begin + last))
        requests.append([Request(0, indices or [0], len(indices), total)])
    return requests


class _Mixer:
    """Draws how pairs of images are mixed: MixUp (arXiv:1710.09412), CutMix (arXiv:1905.04899), or either by a fair coin."""

    def __init__(self, mixup: float, cutmix: float, image_size: tuple[int, int], seed: int) -> None:
        self._mixup = mixup
        self._cutmix = cutmix
        self._size = image_size
        self._seed = seed

    def __call__(self, request: Request) -> Mix:
        assert request.partners is not None
        assert request.pairs is not None
        drawn = [self._draw(request.epoch, pair) for pair in request.pairs]
        own_B = torch.tensor([own for own, _ in drawn], dtype=torch.float32)
        return Mix(torch.tensor(request.partners), own_B, torch.tensor([box for _, box in drawn]))

    def _draw(self, epoch: int, pair: int) -> tuple[float, tuple[int, int, int, int]]:
        generator = np.random.default_rng(derive_seed(self._seed, "mix", epoch, pair))
        cut = self._cutmix > 0 and (self._mixup == 0 or generator.random() < 0.5)
        own = generator.beta(self._cutmix, self._cutmix) if cut else generator.beta(self._mixup, self._mixup)
        if not cut:
            return own, (0, 0, 0, 0)
        height, width = self._size
        half_height, half_width = (round(side * (1 - own) ** 0.5 / 2) for side in self._size)
        row, column = generator.integers(height), generator.integers(width)
        top, bottom = (int(np.clip(edge, 0, height)) for edge in (row - half_height, row + half_height))
        left, right = (int(np.clip(edge, 0, width)) for edge in (column - half_width, column + half_width))
        return 1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right)
