"""Pace: how long each rank is busy by itself in an update, and which rank the others wait for.

All ranks' updates take equally long, as each waits for the slowest in the collectives. What tells them apart is the time before these:
until the data are there, and in the peers' forwards, which wait for nobody (with SyncBatchNorm they do, and are left out).
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch

from mutual.engine.monitoring.watchdog import COMPUTING, EVALUATING, LOADING, HangWatchdog
from mutual.group import Communicator, Group

LAG_FACTOR = 1.5
"""A rank falls behind if it is busy so many times as long as the rank in the middle, ..."""
LAG_FRACTION = 0.1
"""... and the others wait for it for such a part of their updates."""

_ACTIVITIES = {LOADING: "waits for its data", COMPUTING: "computes", EVALUATING: "evaluates"}

_T = TypeVar("_T")
_Mark = float | torch.cuda.Event


class StragglerMonitor:
    """Times this rank's data and forwards, compares them with the other ranks', and warns of one that falls behind; once of each."""

    def __init__(self, group: Group, comm: Communicator, *, synchronized_forwards: bool = False) -> None:
        self._comm = comm
        self._places = group.placement
        self._watch = HangWatchdog(comm)
        self._marks: list[tuple[_Mark, _Mark]] = []
        self._loading = 0.0
        self._updates = 0
        self._seconds = 0.0
        self._begun = time.perf_counter()
        self._behind: int | None = None
        self._warned: set[int] = set()
        self._rounds = 0
        if comm.size > 1:
            group.peer_context = self._computing
        if comm.size > 1 and not synchronized_forwards:
            group.forward_context = self._stopwatch

    def timed(self, windows: Iterable[_T], first: int) -> Iterator[_T]:
        """Yields `windows`, which begin with update number `first`, and times how long each is waited for."""
        source, update = iter(windows), first
        self._rounds += 1
        while True:
            self._reach(update, LOADING)
            self._begun = time.perf_counter()
            try:
                window = next(source)
            except StopIteration:
                return
            self._loading += time.perf_counter() - self._begun
            self._reach(update, COMPUTING)
            self._updates += 1
            update += 1
            yield window
            self._seconds += time.perf_counter() - self._begun

    def evaluated(self, batches: Iterable[_T], updates: int) -> Iterator[_T]:
        """Yields the `batches` of an evaluation after so many `updates`."""
        source, number = iter(batches), 0
        while True:
            self._reach(updates, EVALUATING, 2 * number)
            with self._watch.during("waits for its data"):
                try:
                    batch = next(source)
                except StopIteration:
                    return
            number += 1
            self._reach(updates, EVALUATING, 2 * number - 1)
            yield batch

    def during(self, activity: str) -> AbstractContextManager[None]:
        """Within it, this rank is `activity` something, should the others have to wait for it."""
        return self._watch.during(activity)

    def flush(self) -> dict[str, float]:
        """Returns what charts show of the updates since the last call, and warns of a rank that falls behind.

        Every process must call it.
        """
        if self._comm.size == 1 or self._updates == 0:
            return {}
        now = time.perf_counter()
        updates, seconds = self._updates, self._seconds + now - self._begun
        forwards = sum(_elapsed(begin, end) for begin, end in self._marks)
        self._marks.clear()
        mine = torch.tensor([self._loading / updates, forwards / updates], dtype=torch.float32, device=self._comm.device)
        loading, computing = (column.tolist() for column in self._comm.all_gather(mine).unbind(dim=1))
        self._loading, self._seconds, self._updates, self._begun = 0.0, 0.0, 0, now
        busy = [sum(pair) for pair in zip(loading, computing, strict=True)]
        slowest = busy.index(max(busy))
        middle = _middle(busy, slowest)
        before, self._behind = self._behind, lagging_rank(busy, seconds / updates)
        if self._behind is not None and self._behind == before and slowest not in self._warned:  # once may be a hiccup
            self._warned.add(slowest)
            self._warn(slowest, loading[slowest], computing[slowest], busy[slowest] - middle, seconds / updates)
        return {"pace/slowest_rank_ms": 1e3 * busy[slowest], "pace/middle_rank_ms": 1e3 * middle}

    def close(self) -> None:
        """Ends the watch."""
        self._watch.close()

    def _reach(self, update: int, phase: int, batch: int = 0) -> None:
        self._watch.stage = (self._rounds, update, phase, batch)
        self._watch.activity = _ACTIVITIES[phase]

    def _computing(self, peer: str) -> AbstractContextManager[None]:
        return self._watch.during(f"{'evaluates' if self._watch.stage[2] == EVALUATING else 'computes'} peer {peer!r}")

    def _warn(self, rank: int, loading: float, computing: float, late: float, update: float) -> None:
        if self._comm.is_main:
            warnings.warn(
                f"rank {rank}{self._holds(rank)} falls behind: the others wait {1e3 * late:.0f} ms of {1e3 * update:.0f} ms an update "
                f"for it (its data take {1e3 * loading:.0f} ms, its forwards {1e3 * computing:.0f} ms)",
                stacklevel=3,
            )

    def _holds(self, rank: int) -> str:
        """Returns where the rank is and, where ranks hold different peers, which it holds."""
        return "" if self._places.is_replicated else f" ({', '.join(self._places.peers_on(rank))})"

    @contextmanager
    def _stopwatch(self) -> Iterator[None]:
        begin = self._mark()
        yield
        self._marks.append((begin, self._mark()))

    def _mark(self) -> _Mark:
        if self._comm.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def lagging_rank(busy: Sequence[float], update: float) -> int | None:
    """Returns the rank that the others wait for, or None: `busy` are the ranks' seconds by themselves in an update of `update` seconds."""
    slowest = busy.index(max(busy))
    middle = _middle(busy, slowest)
    late = busy[slowest] - middle
    return slowest if late > LAG_FRACTION * update and busy[slowest] > LAG_FACTOR * middle else None


def _middle(busy: Sequence[float], slowest: int) -> float:
    return statistics.median([seconds for rank, seconds in enumerate(busy) if rank != slowest])


def _elapsed(begin: _Mark, end: _Mark) -> float:
    if isinstance(begin, float) or isinstance(end, float):
        assert isinstance(begin, float), "one device, one kind of mark"
        assert isinstance(end, float), "one device, one kind of mark"
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1e3
