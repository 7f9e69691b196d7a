"""Requests: which images make a batch, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from math import gcd

from mutual.data.loading.plan import EpochPlan, MicroBatchSlice, shard_bounds
from mutual.data.loading.samplers import occurrences
from mutual.recipe import derive_seed

OCCURRENCE_STRIDE = 1_000_000
"""What is added to the number of an epoch for each time that an image has occurred in it before; no training has more epochs."""


@dataclass(frozen=True)
class Request:
    """One batch to load.

    Attributes:
        epoch: the epoch that it belongs to.
        indices: its B images (`num_valid` of them, then padding), and behind them extra images that they are mixed with.
        num_valid: number of images that are no padding.
        global_batch_size: the same over all ranks.
        partners: for each of the B images the position of its partner among `indices`; None: they are not mixed.
        pairs: for each of the B images what its mix is drawn from: the epoch and the number of its pair in it, which is the same for
            both; or, of counted views, the number of the view and the image.
        views: for each of the images the number of its view, on which its augmentation depends; None: the epoch.
    """

    epoch: int
    indices: list[int]
    num_valid: int
    global_batch_size: int
    partners: list[int] | None = None
    pairs: list[tuple[int, int]] | None = None
    views: list[int] | None = None

    @property
    def view_numbers(self) -> list[int]:
        """For each of the images the number that its random numbers are drawn by.

        That of its view; or the epoch, and `OCCURRENCE_STRIDE` more for each time that it has occurred in this before.
        """
        return [self.epoch] * len(self.indices) if self.views is None else self.views

    @property
    def num_rows(self) -> int:
        """Number of images that the peers see, B."""
        return len(self.indices) if self.partners is None else len(self.partners)


@dataclass(frozen=True)
class CountedViews:
    """A fixed number of views of each image: what a view is depends on its number, and not on the epoch that shows it.

    An epoch that has each image once shows it in one of them, and `number` epochs in each of them once. Where an image occurs several times
    in an epoch, up to `number` occurrences are in different views.

    Attributes:
        number: how many there are of each image.
        seed: what they are drawn by.
    """

    number: int
    seed: int

    def of(self, index: int, epoch: int, seed: int, occurrence: int = 0) -> int:
        """Returns the view in which `epoch` shows the image at `index` after as many `occurrence`s, by the recipe's `seed`."""
        return (derive_seed(seed, "view", epoch // self.number, index) + epoch + occurrence * self._step) % self.number

    @cached_property
    def _step(self) -> int:
        """Between two occurrences in an epoch: by the golden section, far from the views of the next epochs; each view before any again."""
        return next(step for step in count(max(1, round(0.618 * self.number))) if gcd(step, self.number) == 1)

    def partner(self, index: int, view: int, num_samples: int) -> int:
        """Returns the image that this view of an image is mixed with; it is in the view of the same number."""
        return derive_seed(self.seed, "partner", view, index) % num_samples


@dataclass(frozen=True)
class _EpochOrder:
    """An epoch's number, its images in their order, and how often each has come before; None: none comes twice."""

    epoch: int
    images: Sequence[int]
    occurrences: list[int] | None

    @classmethod
    def of(cls, plan: EpochPlan, epoch: int) -> _EpochOrder:
        images = plan.order(epoch)
        return cls(epoch, images, None if plan.sampler is None and plan.crops == 1 else occurrences(images))

    def occurrence(self, position: int) -> int:
        return 0 if self.occurrences is None else self.occurrences[position]

    def numbers(self, positions: Sequence[int]) -> list[int] | None:
        """Returns what each image's random numbers are drawn by; None where it is the epoch of all."""
        if self.occurrences is None:
            return None
        return [self.epoch + OCCURRENCE_STRIDE * self.occurrences[position] for position in positions]

    def position(self, image: int, occurrence: int) -> int:
        places = (position for position, each in enumerate(self.images) if each == image)
        return next(position for position in places if self.occurrence(position) == occurrence)


class TrainBatchSampler:
    """The requests of an epoch for one shard, from a window on; torch's loader takes it as its batch sampler.

    Args:
        plan: which samples each shard computes.
        shard: the shard's index, and the number of shards.
        mixed: each image has a partner that it is mixed with.
        counted_views: the views of each image, where they are not each epoch's own.

    Attributes:
        epoch: the epoch that is sampled next.
        start: the window that it begins with.
    """

    def __init__(self, plan: EpochPlan, *, shard: tuple[int, int], mixed: bool, counted_views: CountedViews | None = None) -> None:
        self.plan = plan
        self.epoch = 0
        self.start = 0
        self._shard = shard
        self._mixed = mixed
        self._min_size = min(2, plan.batch_size)  # BatchNorm needs two images where the features of one are a single value
        self._counted_views = counted_views

    def __iter__(self) -> Iterator[list[Request]]:
        order = _EpochOrder.of(self.plan, self.epoch)
        for window in range(self.start, self.plan.num_windows):
            for request in self._requests(window, order):
                yield [request]

    def windows(self, epoch: int) -> Iterator[list[Request]]:
        """Yields the requests of each window of `epoch`; nothing is loaded."""
        order = _EpochOrder.of(self.plan, epoch)
        yield from (list(self._requests(window, order)) for window in range(self.plan.num_windows))

    def sizes(self, window: int) -> list[int]:
        """Returns how many images the peers see of each of the shard's micro-batches of a window."""
        return [max(each.end - each.begin, self._min_size) for each in self.plan.micro_batches(window, self._shard)]

    def request_of(self, index: int, view: int) -> Request:
        """Returns the request of one view of an image alone; without counted views, its number is that of `Request.view_numbers`."""
        if self._counted_views is not None:
            return self._counted_request([index], [view], view, num_valid=1, global_batch_size=1)
        occurrence, epoch = divmod(view, OCCURRENCE_STRIDE)
        order = _EpochOrder.of(self.plan, epoch)
        return self._request_at([order.position(index, occurrence)], order, num_valid=1, global_batch_size=1)

    def first_request(self, epoch: int, num_images: int) -> Request:
        """Returns the request of the first images of `epoch`, whatever the shards."""
        number = min(num_images, self.plan.num_samples)
        return self._request(MicroBatchSlice(0, number, padding_index=0, global_batch_size=number), _EpochOrder.of(self.plan, epoch))

    def _requests(self, window: int, order: _EpochOrder) -> Iterator[Request]:
        yield from (self._request(micro_batch, order) for micro_batch in self.plan.micro_batches(window, self._shard))

    def _request(self, micro_batch: MicroBatchSlice, order: _EpochOrder) -> Request:
        positions = list(range(micro_batch.begin, micro_batch.end))
        num_valid = len(positions)
        positions += (positions or [micro_batch.padding_index])[:1] * (self._min_size - num_valid)
        sizes = {"num_valid": num_valid, "global_batch_size": micro_batch.global_batch_size}
        if self._counted_views is None:
            return self._request_at(positions, order, **sizes)
        indices = [order.images[position] for position in positions]
        seen_before = map(order.occurrence, positions)
        views = [
            self._counted_views.of(index, order.epoch, self.plan.seed, before) for index, before in zip(indices, seen_before, strict=True)
        ]
        return self._counted_request(indices, views, order.epoch, **sizes)

    def _counted_request(self, indices: list[int], views: list[int], epoch: int, *, num_valid: int, global_batch_size: int) -> Request:
        """Returns a request for these views of these images; the partners that they are mixed with depend on nothing else."""
        assert self._counted_views is not None
        if not self._mixed:
            return Request(epoch, indices, num_valid, global_batch_size, views=views)
        keys = list(zip(indices, views, strict=True))
        loaded = list(keys)
        row_of = {key: row for row, key in reversed(list(enumerate(keys)))}
        partners = []
        for index, view in keys:
            partner = self._counted_views.partner(index, view, self.plan.num_images), view
            if partner not in row_of:
                row_of[partner] = len(loaded)
                loaded.append(partner)
            partners.append(row_of[partner])
        return Request(
            epoch,
            [index for index, _ in loaded],
            num_valid,
            global_batch_size,
            partners=partners,
            pairs=[(view, index) for index, view in keys],
            views=[view for _, view in loaded],
        )

    def _request_at(self, positions: list[int], order: _EpochOrder, *, num_valid: int, global_batch_size: int) -> Request:
        """Returns a request for the images at `positions` of the epoch's order, in the epoch's own views."""
        if not self._mixed:
            images = [order.images[position] for position in positions]
            return Request(order.epoch, images, num_valid, global_batch_size, views=order.numbers(positions))
        # neighbours in the order are each other's partners, so that a mix depends on neither ranks nor batch size
        partners = [self.plan.partner(position) for position in positions]
        row_of: dict[int, int] = {}
        for row, position in enumerate(positions):
            row_of.setdefault(position, row)
        loaded = list(positions)
        for partner in partners:
            if partner not in row_of:
                row_of[partner] = len(loaded)
                loaded.append(partner)
        return Request(
            order.epoch,
            [order.images[position] for position in loaded],
            num_valid,
            global_batch_size,
            partners=[row_of[partner] for partner in partners],
            pairs=[(order.epoch, self.plan.pair(position)) for position in positions],
            views=order.numbers(loaded),
        )


def eval_requests(num_samples: int, batch_size: int, *, world_size: int, shard: tuple[int, int]) -> list[list[Request]]:
    """Returns a shard's requests for each round of world_size * batch_size samples: every sample is in exactly one of the shards.

    All shards have equally many rounds; one without samples in a round gets a padding image and `num_valid` 0.
    """
    requests = []
    for begin in range(0, num_samples, batch_size * world_size):
        global_batch_size = min(batch_size * world_size, num_samples - begin)
        first, last = shard_bounds(global_batch_size, *shard)
        indices = list(range(begin + first, begin + last))
        requests.append([Request(0, indices or [0], len(indices), global_batch_size)])
    return requests
