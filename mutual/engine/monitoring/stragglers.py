"""StragglerMonitor: how long each rank is busy by itself in an update, and which rank the others wait for.

All ranks' updates take equally long, as each waits for the slowest in the collectives. What differs is the time before these: until
the data are loaded, and in the peers' forwards, which wait for no other rank (with SyncBatchNorm they do, and are left out).
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
"""A straggler is busy for this many times as long as the median rank, ..."""
LAG_FRACTION = 0.1
"""... and the others wait for it for at least this fraction of an update, ..."""
LAG_SECONDS = 1.0
"""... on average over the updates of so many seconds, twice in a row: what else a machine does slows short updates for a while."""

_ACTIVITIES = {LOADING: "waits for its data", COMPUTING: "computes", EVALUATING: "evaluates"}

_T = TypeVar("_T")
_Timestamp = float | torch.cuda.Event


class StragglerMonitor:
    """Times this rank's data loading and forwards, compares them with the other ranks', and warns once of each straggler.

    Args:
        group: its forwards are timed, once `attach` has been called.
        comm: the ranks of the run.
        synchronized_forwards: whether forwards wait for other ranks and so are not timed.
    """

    def __init__(self, group: Group, comm: Communicator, *, synchronized_forwards: bool = False) -> None:
        self._comm = comm
        self._group = group
        self._placement = group.placement
        self._synchronized_forwards = synchronized_forwards
        self._watchdog = HangWatchdog(comm)
        self._forwards: list[tuple[_Timestamp, _Timestamp]] = []
        self._loading_seconds = 0.0
        self._updates = 0
        self._seconds = 0.0
        self._start_time = time.perf_counter()
        self._interval_updates = 0
        self._interval_seconds = 0.0
        self._interval_busy_W2 = torch.zeros(comm.size, 2)
        self._straggler: int | None = None
        self._warned: set[int] = set()
        self._rounds = 0

    def attach(self) -> None:
        """Makes the group run its forwards in contexts of this monitor; with one rank it does nothing."""
        if self._comm.size > 1:
            self._group.peer_context = self._during_peer
            if not self._synchronized_forwards:
                self._group.forward_context = self._timed_forward

    def timed(self, windows: Iterable[_T], first: int) -> Iterator[_T]:
        """Yields the `windows` of updates from `first` on, and times how long each is waited for."""
        source, update = iter(windows), first
        self._rounds += 1
        while True:
            self._set_stage(update, LOADING)
            self._start_time = time.perf_counter()
            try:
                window = next(source)
            except StopIteration:
                return
            self._loading_seconds += time.perf_counter() - self._start_time
            self._set_stage(update, COMPUTING)
            self._updates += 1
            update += 1
            yield window
            self._seconds += time.perf_counter() - self._start_time

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context in which an update that has begun waits for its next micro-batch."""
        rounds, update, phase, batch = self._watchdog.stage
        self._watchdog.stage = (rounds, update, phase, batch + 1)
        start = time.perf_counter()
        with self._watchdog.during(_ACTIVITIES[LOADING]):
            yield
        self._loading_seconds += time.perf_counter() - start
        self._watchdog.stage = (rounds, update, phase, batch + 2)

    def evaluated(self, batches: Iterable[_T], updates: int) -> Iterator[_T]:
        """Yields the `batches` of an evaluation after `updates` updates."""
        source, index = iter(batches), 0
        while True:
            self._set_stage(updates, EVALUATING, 2 * index)
            with self._watchdog.during("waits for its data"):
                try:
                    batch = next(source)
                except StopIteration:
                    return
            index += 1
            self._set_stage(updates, EVALUATING, 2 * index - 1)
            yield batch

    def during(self, activity: str) -> AbstractContextManager[None]:
        """Context in which this rank does `activity`, should the others have to wait for it."""
        return self._watchdog.during(activity)

    def flush(self) -> dict[str, float]:
        """Returns by chart the times of the updates since the last call, and warns of a straggler. Collective: all ranks must call it."""
        if self._comm.size == 1 or self._updates == 0:
            return {}
        now = time.perf_counter()
        updates, seconds = self._updates, self._seconds + now - self._start_time
        forward_seconds = sum(_elapsed(start, end) for start, end in self._forwards)
        self._forwards.clear()
        local = torch.tensor([self._loading_seconds, forward_seconds], dtype=torch.float32, device=self._comm.device)
        busy_W2 = self._comm.all_gather(local).cpu()
        self._loading_seconds, self._seconds, self._updates, self._start_time = 0.0, 0.0, 0, now
        self._interval_updates += updates
        self._interval_seconds += seconds
        self._interval_busy_W2 += busy_W2
        if self._interval_seconds >= LAG_SECONDS:
            self._end_interval()
        busy = busy_W2.sum(dim=1).tolist()
        slowest = busy.index(max(busy))
        milliseconds = 1e3 / updates
        return {
            "pace/slowest_rank_ms": milliseconds * busy[slowest],
            "pace/middle_rank_ms": milliseconds * _median_of_others(busy, slowest),
        }

    def close(self) -> None:
        """Ends the watchdog."""
        self._watchdog.close()

    def _set_stage(self, update: int, phase: int, batch: int = 0) -> None:
        self._watchdog.stage = (self._rounds, update, phase, batch)
        self._watchdog.activity = _ACTIVITIES[phase]

    def _during_peer(self, peer: str) -> AbstractContextManager[None]:
        return self._watchdog.during(f"{'evaluates' if self._watchdog.stage[2] == EVALUATING else 'computes'} peer {peer!r}")

    def _end_interval(self) -> None:
        """Warns of a rank that was the straggler of this interval and of the one before, once of each."""
        busy_W2 = self._interval_busy_W2 / self._interval_updates
        update = self._interval_seconds / self._interval_updates
        self._interval_updates, self._interval_seconds, self._interval_busy_W2 = 0, 0.0, torch.zeros_like(busy_W2)
        busy = busy_W2.sum(dim=1).tolist()
        before, self._straggler = self._straggler, lagging_rank(busy, update)
        if self._straggler is not None and self._straggler == before and self._straggler not in self._warned:
            self._warned.add(self._straggler)
            loading, computing = busy_W2[self._straggler].tolist()
            self._warn(self._straggler, loading, computing, busy[self._straggler] - _median_of_others(busy, self._straggler), update)

    def _warn(self, rank: int, loading: float, computing: float, wait: float, update: float) -> None:
        if self._comm.is_main:
            warnings.warn(
                f"rank {rank}{self._describe_peers(rank)} falls behind: the others wait {1e3 * wait:.0f} ms of {1e3 * update:.0f} ms "
                f"an update for it (its data take {1e3 * loading:.0f} ms, its forwards {1e3 * computing:.0f} ms)",
                stacklevel=4,
            )

    def _describe_peers(self, rank: int) -> str:
        """Returns which peers the rank holds, where ranks hold different ones."""
        return "" if self._placement.is_replicated else f" ({', '.join(self._placement.peers_on(rank))})"

    @contextmanager
    def _timed_forward(self) -> Iterator[None]:
        start = self._timestamp()
        yield
        self._forwards.append((start, self._timestamp()))

    def _timestamp(self) -> _Timestamp:
        if self._comm.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def lagging_rank(busy: Sequence[float], update: float) -> int | None:
    """Returns the rank that the others wait for, or None.

    Args:
        busy: by rank, the seconds of an update in which it waits for no other rank.
        update: the seconds of an update.

    Example:
        >>> lagging_rank([1.0, 1.1, 2.0, 1.0], update=3.0)
        2
    """
    slowest = busy.index(max(busy))
    median = _median_of_others(busy, slowest)
    wait = busy[slowest] - median
    return slowest if wait > LAG_FRACTION * update and busy[slowest] > LAG_FACTOR * median else None


def _median_of_others(busy: Sequence[float], rank: int) -> float:
    return statistics.median([seconds for other, seconds in enumerate(busy) if other != rank])


def _elapsed(start: _Timestamp, end: _Timestamp) -> float:
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float), "one device, one kind of timestamp"
        assert isinstance(end, float), "one device, one kind of timestamp"
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1e3
