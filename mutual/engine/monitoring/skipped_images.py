"""Images that cannot be read: who met one is said with the rank; those that were skipped are named, once each, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from mutual.data import DataModule, ImageError
from mutual.group import Communicator
from mutual.recipe import InputError, Recipe, printable

Item = TypeVar("Item")
_CONSEQUENCES = {
    "train": "training images could not be read; the next readable ones of the epoch's order stood in for them",
    "val": "validation images could not be read and are left out of the scores",
}


def with_rank(items: Iterable[Item], comm: Communicator) -> Iterator[Item]:
    """Yields the items; the message of an ImageError among them ends with the rank where there are several.

    Raises:
        ImageError: an image cannot be read.
    """
    try:
        yield from items
    except ImageError as error:
        if comm.size == 1:
            raise
        raise type(error)(error.path, f"{error.reason} (rank {comm.rank} of {comm.size})") from error


class SkippedImages:
    """Names and counts over all processes what data.on_bad_image: skip passed over; otherwise there is nothing to say."""

    def __init__(self, recipe: Recipe, data: DataModule, comm: Communicator, *, part: tuple[int, int]) -> None:
        """`part` is which part of each micro-batch this process loads."""
        self._skips = recipe.data.on_bad_image == "skip"
        self._data = data
        self._comm = comm
        self._part = part
        self._named: set[str] = set()

    def report(self, say: Callable[[str], None], *, when: str = "") -> None:
        """Says which images have been skipped since the last call; every process must call it.

        Raises:
            InputError: processes that load the same images do not agree on which can be read.
        """
        if not self._skips:
            return
        found = self._comm.all_gather_json({"part": self._part, "bad": self._data.take_bad_images()})
        _compare(found)
        for split, consequence in _CONSEQUENCES.items():
            bad = {path: reason for each in found for path, reason in sorted(each["bad"][split].items())}
            for path in sorted(bad.keys() - self._named):
                say(str(ImageError(path, bad[path])))
            self._named |= bad.keys()
            if bad:
                say(f"{when}{len(bad)} {consequence}")


def _compare(found: Sequence[Any]) -> None:
    """Compares processes by what they load together: all that cut the micro-batches into as many parts have read every image."""
    for split in _CONSEQUENCES:
        by_part: dict[tuple[int, int], frozenset[str]] = {}
        whole: dict[int, frozenset[str]] = {}
        different: set[str] = set()
        for each in found:
            part, parts = each["part"]
            paths = frozenset(each["bad"][split])
            different |= by_part.setdefault((part, parts), paths) ^ paths
            whole[parts] = whole.get(parts, frozenset()) | paths
        for paths in whole.values():
            different |= paths ^ next(iter(whole.values()))
        if different:
            raise InputError(
                f"some processes can read {', '.join(map(printable, sorted(different)[:3]))} and others cannot, so that peers would learn "
                "from different images; every process must see the same files"
            )
