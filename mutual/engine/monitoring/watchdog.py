"""Watch: names the rank that all others wait for while nothing goes on, as what blocks in a collective cannot speak itself.

Every rank's thread says from time to time in the launcher's store where its training stands; the first two ranks read along, the second
for the first.
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
Place = tuple[int, ...]
"""Where a rank's program stands, in the order in which all ranks pass: a later place is a greater one."""


@dataclass(frozen=True)
class Heartbeat:
    """A rank's sign of life: which it is (they are counted), from which machine, where its training stands and what it does there."""

    number: int
    host: str
    place: Place
    activity: str = ""


@dataclass
class HangDetector:
    """Says which ranks hold the others up, from their beats at one time after another.

    Attributes:
        stall: so many seconds without progress anywhere are a stall.
        silence: a rank without a new beat for so many seconds is not alive.
    """

    stall: float
    silence: float
    _moved: dict[int, tuple[Place, float]] = field(default_factory=dict)
    _heard: dict[int, tuple[int, float]] = field(default_factory=dict)
    _told: bool = False

    def lagging_ranks(self, beats: Sequence[Heartbeat | None], now: float) -> list[int]:
        """Returns once in a stall the ranks that are behind the others, or if all are equally far, those that are silent."""
        for rank, beat in enumerate(beats):
            if beat is None:
                continue
            if rank not in self._moved or self._moved[rank][0] != beat.place:
                self._moved[rank] = (beat.place, now)
                self._told = False
            if rank not in self._heard or self._heard[rank][0] != beat.number:
                self._heard[rank] = (beat.number, now)
        if self._told or len(self._moved) < len(beats) or now - max(when for _, when in self._moved.values()) < self.stall:
            return []
        places = [self._moved[rank][0] for rank in range(len(beats))]
        found = [rank for rank, place in enumerate(places) if place == min(places)]
        if len(found) == len(beats):
            found = [rank for rank in found if self.is_silent(rank, now)]
        self._told = bool(found)
        return found

    def is_silent(self, rank: int, now: float) -> bool:
        """Returns True if the rank has given no sign of life for a while."""
        return rank not in self._heard or now - self._heard[rank][1] > self.silence


class HangWatchdog:
    """Beats for this process, and on the first two ranks looks at all.

    Attributes:
        stage: where this process' training stands: a round of windows, an update, LOADING, COMPUTING or EVALUATING, and a batch.
        doing: what it does there, in words.
    """

    PERIOD = 5.0
    """Seconds between two beats."""
    STALL = 60.0
    """Seconds without progress on any rank after which one is named."""

    def __init__(self, comm: Communicator) -> None:
        self.stage: tuple[int, int, int, int] = (0, 0, LOADING, 0)
        self.activity = "begins"
        self._comm = comm
        self._judge = HangDetector(self.STALL, silence=3 * self.PERIOD)
        self._ended = threading.Event()
        self._store = comm.store("pace")
        if self._store is not None:
            threading.Thread(target=self._run, name="watch", daemon=True).start()

    @contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Within it, this process is `activity` something, in words."""
        before, self.activity = self.activity, activity
        yield
        self.activity = before

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()

    def _run(self) -> None:
        number = 0
        try:
            while True:
                number += 1
                self._beat(number)
                if self._comm.rank < 2:
                    self._look()
                if self._ended.wait(self.PERIOD):
                    return
        except (RuntimeError, OSError):  # the store went with its job
            return

    def _beat(self, number: int) -> None:
        assert self._store is not None, "the thread runs with a store"
        place = (
            *self.stage,
            self._comm.traffic.global_calls,
            self._comm.traffic.subgroup_calls,
        )  # within a stage, what waits has come further
        when = f"{'after' if self.stage[2] == EVALUATING else 'in'} update {self.stage[1] + (self.stage[2] != EVALUATING)}"
        self._store.set(str(self._comm.rank), json.dumps([number, socket.gethostname(), place, f"{self.activity} {when}"]))

    def _look(self) -> None:
        assert self._store is not None, "the thread runs with a store"
        keys = [str(rank) for rank in range(self._comm.size)]
        if not self._store.check(keys):
            return
        beats = []
        for content in self._store.multi_get(keys):
            number, host, place, activity = json.loads(content)
            beats.append(Heartbeat(number, host, tuple(place), activity))
        now = time.monotonic()
        for rank in self._judge.lagging_ranks(beats, now):
            if self._comm.rank == 0 or self._judge.is_silent(0, now):
                sys.stderr.write(self._told(rank, beats[rank], now))
                sys.stderr.flush()

    def _told(self, rank: int, beat: Heartbeat, now: float) -> str:
        state = f"{beat.activity} and gives no sign of life" if self._judge.is_silent(rank, now) else beat.activity
        seconds = f"nothing has gone on for {self._judge.stall:.0f} s"
        return f"mutual: warning: {seconds}: rank {rank} on {beat.host} {state}, and the others wait for it\n"
