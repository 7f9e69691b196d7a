"""Requests: which images make a batch, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mutual.data.plan import EpochPlan, MicroBatchSlice, shard_bounds


@dataclass(frozen=True)
class Request:
    """One batch to load.

    Attributes:
        epoch: the epoch that it belongs to, on which the augmentation depends.
        indices: its B images (`num_valid` of them, then padding), and behind them extra images that they are mixed with.
        num_valid: number of images that are no padding.
        global_batch_size: the same over all ranks.
        partners: for each of the B images the position of its partner among `indices`; None: they are not mixed.
        pairs: for each of the B images the number of its pair in the epoch, from which both draw one mix.
    """

    epoch: int
    indices: list[int]
    num_valid: int
    global_batch_size: int
    partners: list[int] | None = None
    pairs: list[int] | None = None


class TrainBatchSampler:
    """The requests of an epoch for one shard, from a window on; torch's loader takes it as its batch sampler.

    Args:
        plan: which samples each shard computes.
        shard: the shard's index, and the number of shards.
        mixed: each image has a partner that it is mixed with.

    Attributes:
        epoch: the epoch that is sampled next.
        start: the window that it begins with.
    """

    def __init__(self, plan: EpochPlan, *, shard: tuple[int, int], mixed: bool) -> None:
        self.plan = plan
        self.epoch = 0
        self.start = 0
        self._shard = shard
        self._mixed = mixed

    def __iter__(self) -> Iterator[list[Request]]:
        epoch, order = self.epoch, self.plan.order(self.epoch)
        for window in range(self.start, self.plan.num_windows):
            for micro_batch in self.plan.micro_batches(window, self._shard):
                yield [self._request(micro_batch, order, epoch)]

    def _request(self, micro_batch: MicroBatchSlice, order: Sequence[int], epoch: int) -> Request:
        positions = list(range(micro_batch.begin, micro_batch.end))
        num_valid = len(positions)
        min_size = min(2, self.plan.batch_size)  # BatchNorm needs two images where the features of one are a single value
        positions += (positions or [micro_batch.padding_index])[:1] * (min_size - num_valid)
        if not self._mixed:
            return Request(epoch, [order[position] for position in positions], num_valid, micro_batch.global_batch_size)
        # neighbours in the order are each other's partners, so that a mix depends on neither ranks nor batch size
        partners = [position ^ 1 if position ^ 1 < len(order) else position for position in positions]
        row_of: dict[int, int] = {}
        for row, position in enumerate(positions):
            row_of.setdefault(position, row)
        loaded = list(positions)
        for partner in partners:
            if partner not in row_of:
                row_of[partner] = len(loaded)
                loaded.append(partner)
        return Request(
            epoch,
            [order[position] for position in loaded],
            num_valid,
            micro_batch.global_batch_size,
            partners=[row_of[partner] for partner in partners],
            pairs=[position // 2 for position in positions],
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
