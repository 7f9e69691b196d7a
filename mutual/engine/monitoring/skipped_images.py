"""Images that cannot be read: errors name the rank; those that were skipped are named once each, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from mutual.data import DataModule, ImageError
from mutual.group import Communicator
from mutual.recipe import InputError, Recipe, printable

_ONE = {"s": "", "other": "the next readable one", "them": "it", "is_are": "is"}
_MANY = {"s": "s", "other": "the next readable ones", "them": "them", "is_are": "are"}
Item = TypeVar("Item")
_CONSEQUENCES = {
    "train": "training image{s} could not be read; {other} of the epoch's order stood in for {them}",
    "val": "validation image{s} could not be read and {is_are} left out of the scores",
    "test": "test image{s} could not be read and {is_are} left out of the scores",
}


def with_rank(items: Iterable[Item], comm: Communicator) -> Iterator[Item]:
    """Yields `items`; with several ranks, the message of an ImageError that they raise ends with the rank.

    Raises:
        ImageError: an image cannot be read.
    """
    with naming_rank(comm):
        yield from items


@contextmanager
def naming_rank(comm: Communicator) -> Iterator[None]:
    """Context in which, with several ranks, the message of an ImageError ends with the rank."""
    try:
        yield
    except ImageError as error:
        if comm.size == 1:
            raise
        raise type(error)(error.path, f"{error.reason} (rank {comm.rank} of {comm.size})") from error


class SkippedImages:
    """Reports over all ranks the images that `data.on_bad_image: skip` has skipped.

    Args:
        recipe: says whether images are skipped at all; if not, nothing is reported.
        data: knows which images this rank has skipped.
        comm: the ranks of the run.
        shard: which of how many shards of each micro-batch this rank loads.
        trains: if False, training images are scored as the others are.
    """

    def __init__(self, recipe: Recipe, data: DataModule, comm: Communicator, *, shard: tuple[int, int], trains: bool = True) -> None:
        self._skips = recipe.data.on_bad_image == "skip"
        self._data = data
        self._comm = comm
        self._shard = shard
        self._consequences = _CONSEQUENCES if trains else {**_CONSEQUENCES, "train": _CONSEQUENCES["val"].replace("validation", "training")}
        self._reported: set[str] = set()
        self._left_out: dict[str, set[str]] = {}

    def report(self, print_line: Callable[[str], None], *, prefix: str = "") -> None:
        """Prints which images have been skipped since the last call. Collective: all ranks must call it.

        Of images that are scored, those that are left out are counted again only where they are others than before.

        Args:
            print_line: is called with each line.
            prefix: begins the lines that count.

        Raises:
            InputError: ranks that load the same images do not agree on which can be read.
        """
        if not self._skips:
            return
        skipped_by_rank = self._comm.all_gather_json({"shard": self._shard, "skipped": self._data.take_bad_images()})
        _check_agreement(skipped_by_rank)
        for split, consequence in self._consequences.items():
            reasons = {path: reason for rank in skipped_by_rank for path, reason in sorted(rank["skipped"].get(split, {}).items())}
            for path in sorted(reasons.keys() - self._reported):
                print_line(str(ImageError(path, reasons[path])))
            self._reported |= reasons.keys()
            if reasons and self._left_out.get(split) != reasons.keys():
                print_line(f"{prefix}{len(reasons)} {consequence.format_map(_ONE if len(reasons) == 1 else _MANY)}")
            if split != "train":
                self._left_out[split] = set(reasons)


def _check_agreement(skipped_by_rank: Sequence[Any]) -> None:
    """Compares ranks by what they load together: all that cut the micro-batches into as many shards have read every image."""
    for split in _CONSEQUENCES:
        by_shard: dict[tuple[int, int], frozenset[str]] = {}
        by_num_shards: dict[int, frozenset[str]] = {}
        different: set[str] = set()
        for rank in skipped_by_rank:
            shard_index, num_shards = rank["shard"]
            paths = frozenset(rank["skipped"].get(split, {}))
            different |= by_shard.setdefault((shard_index, num_shards), paths) ^ paths
            by_num_shards[num_shards] = by_num_shards.get(num_shards, frozenset()) | paths
        for paths in by_num_shards.values():
            different |= paths ^ next(iter(by_num_shards.values()))
        if different:
            raise InputError(
                f"some processes can read {', '.join(map(printable, sorted(different)[:3]))} and others cannot, so that peers would learn "
                "from different images; every process must see the same files"
            )
