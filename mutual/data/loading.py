"""Loading: the samples of a cell as a Batch, in this process or in workers, each sample a function of (seed, epoch, index) alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mutual.data.batch import Batch, Mix
from mutual.data.plan import Cell, EpochPlan, even_part
from mutual.data.splits import MemorySplit, Split, to_channels
from mutual.data.transforms import Transforms
from mutual.recipe import Data, derive_seed

_HELD_BYTES = 512 * 2**20
"""Images in memory are brought to their size once where they then take less than this, and in every epoch where they take more."""


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


class Loaded(Dataset[Batch]):
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
    ) -> None:
        self._channels = channels
        self._fixed_done = isinstance(split, MemorySplit) and len(split.labels) * channels * image_size[0] * image_size[1] <= _HELD_BYTES
        if isinstance(split, MemorySplit) and self._fixed_done:
            split = MemorySplit(transforms.fixed(to_channels(split.images, channels)), split.labels)
        self._split = split
        self._transforms = transforms
        self._seed = seed
        self.views = tuple(views)
        self._mixer = _Mixer(data.mixup, data.cutmix, image_size, seed) if data.mixup or data.cutmix else None

    def __getitems__(self, requests: Sequence[Request]) -> list[Batch]:
        """Loads one batch; torch's loader calls this with what the batch sampler gave."""
        (request,) = requests
        made = self._images(request)
        images = made[0] if len(made) == 1 else torch.stack(made)
        labels = self._split.labels[request.indices]
        mix = None if self._mixer is None or request.partners is None else self._mixer(request)
        return [Batch(images, labels, request.count, request.total, mix)]

    def sample(self, index: int) -> Tensor:
        """Returns one transformed image, without counted draws; to look at its shape."""
        with torch.random.fork_rng(devices=[]):
            return self._transforms.drawn(self._before_draws(index))

    def _images(self, request: Request) -> list[Tensor]:
        """Returns the images of each view; they are read and decoded once for all."""
        if isinstance(self._split, MemorySplit) and not self._transforms.is_random:
            images = self._split.images[request.indices]
            return [images if self._fixed_done else self._transforms.fixed(to_channels(images, self._channels))] * len(self.views)
        decoded = self._decoded(request)
        if not self._transforms.is_random:
            return [torch.stack([decoded[index] for index in request.indices])] * len(self.views)
        return [self._drawn(request, decoded, view) for view in self.views]

    def _drawn(self, request: Request, decoded: Mapping[int, Tensor], view: int) -> Tensor:
        state = torch.get_rng_state()
        drawn = {}
        for index, image in decoded.items():
            torch.default_generator.manual_seed(derive_seed(self._seed, "augment", request.epoch, index, view))
            drawn[index] = self._transforms.drawn(image)
        torch.set_rng_state(state)
        return torch.stack([drawn[index] for index in request.indices])

    def _decoded(self, request: Request) -> dict[int, Tensor]:
        return {index: self._before_draws(index) for index in dict.fromkeys(request.indices)}

    def _before_draws(self, index: int) -> Tensor:
        image = self._split.image(index)
        return image if self._fixed_done else self._transforms.fixed(to_channels(image, self._channels))


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
