"""HangWatchdog: names the rank that all others wait for while nothing moves, as what blocks in a collective cannot report itself.

A thread of every rank writes from time to time into the launcher's store how far its training is; the first two ranks read them all, the
second in case the first hangs.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mutual.group import Communicator

LOADING, COMPUTING, EVALUATING = 0, 1, 2
Stage = tuple[int, ...]
"""How far a rank's program is, in the order in which all ranks pass: a later stage is a greater one."""


@dataclass(frozen=True)
class Heartbeat:
    """A rank's heartbeat.

    Attributes:
        index: how many it has sent before.
        host: the machine that it runs on.
        stage: how far its training is.
        activity: what it does there, in words.
    """

    index: int
    host: str
    stage: Stage
    activity: str = ""


@dataclass
class HangDetector:
    """Finds the ranks that the others wait for, from heartbeats at one time after another.

    Attributes:
        stall: seconds without progress on any rank that are a stall.
        silence: seconds without a new heartbeat after which a rank counts as dead.

    Example:
        >>> detector = HangDetector(stall=60, silence=15)
        >>> heartbeats = [Heartbeat(0, "node", (7, COMPUTING)), Heartbeat(0, "node", (7, LOADING))]
        >>> detector.lagging_ranks(heartbeats, now=0), detector.lagging_ranks(heartbeats, now=61)
        ([], [1])
    """

    stall: float
    silence: float
    _stages: dict[int, tuple[Stage, float]] = field(default_factory=dict)
    _heartbeats: dict[int, tuple[int, float]] = field(default_factory=dict)
    _is_reported: bool = False

    def lagging_ranks(self, heartbeats: Sequence[Heartbeat | None], now: float) -> list[int]:
        """Returns, once in a stall, the ranks that are behind the others; if all are equally far, those that are silent."""
        for rank, heartbeat in enumerate(heartbeats):
            if heartbeat is None:
                continue
            if rank not in self._stages or self._stages[rank][0] != heartbeat.stage:
                self._stages[rank] = (heartbeat.stage, now)
                self._is_reported = False
            if rank not in self._heartbeats or self._heartbeats[rank][0] != heartbeat.index:
                self._heartbeats[rank] = (heartbeat.index, now)
        if self._is_reported or len(self._stages) < len(heartbeats) or now - max(since for _, since in self._stages.values()) < self.stall:
            return []
        stages = [self._stages[rank][0] for rank in range(len(heartbeats))]
        lagging = [rank for rank, stage in enumerate(stages) if stage == min(stages)]
        if len(lagging) == len(heartbeats):
            lagging = [rank for rank in lagging if self.is_silent(rank, now)]
        self._is_reported = bool(lagging)
        return lagging

    def is_silent(self, rank: int, now: float) -> bool:
        """Returns True if the rank has sent no heartbeat for a while."""
        return rank not in self._heartbeats or now - self._heartbeats[rank][1] > self.silence


class HangWatchdog:
    """Sends this rank's heartbeats and, on the first two ranks, reads those of all; with one rank it does nothing.

    Attributes:
        stage: how far this rank's training is: a round of windows, an update, LOADING, COMPUTING or EVALUATING, and a batch.
        activity: what it does there, in words.
    """

    PERIOD = 5.0
    """Seconds between two heartbeats."""
    STALL = 60.0
    """Seconds without progress on any rank after which one is named."""

    def __init__(self, comm: Communicator) -> None:
        self.stage: tuple[int, int, int, int] = (0, 0, LOADING, 0)
        self.activity = "begins"
        self._comm = comm
        self._detector = HangDetector(self.STALL, silence=3 * self.PERIOD)
        self._closed = threading.Event()
        self._store = comm.store("watchdog")
        if self._store is not None:
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Context in which this rank does `activity`."""
        before, self.activity = self.activity, activity
        yield
        self.activity = before

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()

    def _run(self) -> None:
        index = 0
        try:
            while True:
                index += 1
                self._send(index)
                if self._comm.rank < 2:
                    self._check()
                if self._closed.wait(self.PERIOD):
                    return
        except (RuntimeError, OSError):  # the store went with its job
            return

    def _send(self, index: int) -> None:
        assert self._store is not None, "the thread runs with a store"
        traffic = self._comm.traffic
        stage = (*self.stage, traffic.global_calls, traffic.subgroup_calls)  # within a stage, a rank that waits has come further
        when = f"{'after' if self.stage[2] == EVALUATING else 'in'} update {self.stage[1] + (self.stage[2] != EVALUATING)}"
        self._store.set(str(self._comm.rank), json.dumps([index, socket.gethostname(), stage, f"{self.activity} {when}"]))

    def _check(self) -> None:
        assert self._store is not None, "the thread runs with a store"
        keys = [str(rank) for rank in range(self._comm.size)]
        if not self._store.check(keys):
            return
        heartbeats = []
        for content in self._store.multi_get(keys):
            index, host, stage, activity = json.loads(content)
            heartbeats.append(Heartbeat(index, host, tuple(stage), activity))
        now = time.monotonic()
        for rank in self._detector.lagging_ranks(heartbeats, now):
            if self._comm.rank == 0 or self._detector.is_silent(0, now):
                sys.stderr.write(self._warning(rank, heartbeats[rank], now))
                sys.stderr.flush()

    def _warning(self, rank: int, heartbeat: Heartbeat, now: float) -> str:
        state = f"{heartbeat.activity} and gives no sign of life" if self._detector.is_silent(rank, now) else heartbeat.activity
        seconds = f"nothing has gone on for {self._detector.stall:.0f} s"
        return f"mutual: warning: {seconds}: rank {rank} on {heartbeat.host} {state}, and the others wait for it\n"
