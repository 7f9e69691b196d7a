"""Failures: what ends one process of a launch is printed once, with its rank, and ends the others within seconds.

Whoever fails posts it in the launcher's store. A thread of every process looks there, as the main thread may be waiting for the failed
process in a collective. Where all fail alike (a wrong recipe), it is printed as by one process.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mutual.commandline.launched import launched_rank
from mutual.recipe import printable_lines

if TYPE_CHECKING:
    from mutual.group import Store

POLL = 0.5
"""Seconds between two looks at the store."""
EXIT_DELAY = 2.0
"""Seconds that a process which sees another's failure leaves its main thread for one of its own."""
REPORT_TIMEOUT = 6.0
"""Seconds after which nobody waits any longer for what others have to say."""
LOST = "another process of the run has ended, or has not answered for train.timeout_seconds"
"""What a process says that fails because another one has; not printed where that one says more."""
_FIRST, _ACKNOWLEDGED, _PRINTED = "first", "known", "printed"


class FailureMonitor:
    """Joins this process' end to those of the others in its launch."""

    def __init__(self, rank: int, size: int) -> None:
        """Begins to look for failures of the other processes."""
        self._rank = rank
        self._size = size
        self._store: Store | None = None
        self._acknowledged = False
        self._lock = threading.Lock()
        self._failing = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="failures", daemon=True).start()

    @classmethod
    def of_launch(cls) -> FailureMonitor | None:
        """Returns a new monitor, or None where the launcher started one process, or does not say where processes meet."""
        rank, size = launched_rank()
        if size < 2 or not all(os.environ.get(name) for name in ("RANK", "MASTER_ADDR", "MASTER_PORT")):
            return None
        import mutual.group  # noqa: F401 - here, as two threads that import torch at once disturb each other

        return cls(rank, size)

    def close(self) -> None:
        """Ends the thread: from now on others may go."""
        self._ended.set()

    def report(self, message: str, code: int) -> int:
        """Posts what ends this process with exit code `code`; returns the code to end with when all that is known has been printed."""
        self._failing.set()
        store = self._store or _connect(REPORT_TIMEOUT)
        try:
            if store is None:
                raise ConnectionError
            return self._report(store, message, code)
        except (RuntimeError, OSError):  # the store has gone, with the launcher or with process 0
            _print(f"rank {self._rank} on {socket.gethostname()}: {message}")
            return code

    def _report(self, store: Store, message: str, code: int) -> int:
        store.set(f"failed/{self._rank}", json.dumps([socket.gethostname(), message]))
        first = store.compare_set(_FIRST, "", f"{self._rank} {code}").decode()
        self._acknowledge(store)
        if first != f"{self._rank} {code}":
            if not self._printed(store):
                _print(f"rank {self._rank} on {socket.gethostname()}: {message}")
            return int(first.split()[1]) if message.startswith(LOST) else code
        deadline = time.monotonic() + REPORT_TIMEOUT
        while store.add(_ACKNOWLEDGED, 0) < self._size and time.monotonic() < deadline:
            time.sleep(0.05)
        for line in self._lines(store):
            _print(line)
        store.set(_PRINTED, "1")
        return code

    def _lines(self, store: Store) -> list[str]:
        """Returns every message that was posted, with who has it, unless all have the same."""
        who: dict[str, list[tuple[int, str]]] = {}
        for rank in range(self._size):
            key = f"failed/{rank}"
            if store.check([key]):
                host, message = json.loads(store.get(key))
                who.setdefault(message, []).append((rank, host))
        causes = {message: ranks for message, ranks in who.items() if not message.startswith(LOST)}
        who = causes or who
        if len(who) == 1 and len(next(iter(who.values()))) == self._size:
            return list(who)
        lines = []
        for message, ranks in who.items():
            rank, host = ranks[0]
            others = f" (and {len(ranks) - 1} more)" if len(ranks) > 1 else ""
            lines.append(f"rank {rank} on {host}{others}: {message}")
        return lines

    def _acknowledge(self, store: Store) -> None:
        """Counts this process, once, among those that know of the failure."""
        with self._lock:
            if not self._acknowledged:
                store.add(_ACKNOWLEDGED, 1)
            self._acknowledged = True

    def _printed(self, store: Store) -> bool:
        deadline = time.monotonic() + 2 * REPORT_TIMEOUT
        while not store.check([_PRINTED]):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _watch(self) -> None:
        """Looks for a failure until this process ends, and ends it then."""
        while self._store is None:
            self._store = _connect(600)  # process 0 may be a long time in coming
            if self._ended.wait(POLL):
                return
        store = self._store
        try:
            while store is not None and not self._ended.wait(POLL):
                if store.check([_FIRST]):
                    self._follow(store)
        except (RuntimeError, OSError):
            if not self._ended.wait(2 * EXIT_DELAY) and not self._failing.is_set():
                if os.environ.get("LOCAL_RANK", "0") == "0":
                    _print(f"rank {self._rank} on {socket.gethostname()}: the launcher or the process that kept its store has ended")
                end_process(1)

    def _follow(self, store: Store) -> None:
        """Ends this process as another one has failed, unless its own main thread fails just now and does so itself."""
        if self._failing.wait(EXIT_DELAY) or self._ended.is_set():
            self._ended.wait()
            return
        self._acknowledge(store)
        rank, code = store.get(_FIRST).decode().split()
        if not self._printed(store) and store.compare_set(_PRINTED, "", str(self._rank)).decode() == str(self._rank):
            host, message = json.loads(store.get(f"failed/{rank}"))
            _print(f"rank {rank} on {host}: {message}")
        time.sleep(POLL)  # whoever failed leaves first: the launcher then names it as the cause
        end_process(int(code))


def end_process(code: int) -> None:
    """Ends this process at once, from whatever thread: its main thread may wait in a collective for one that has gone."""
    end_workers()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(code)


def end_workers() -> None:
    """Kills what loads data for this process: it ignores SIGTERM, so that a signal to a whole job leaves the last checkpoint its data."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises where a worker is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _connect(timeout: float) -> Store | None:
    from mutual.group import launch_store  # torch takes seconds to import

    return launch_store("failures", timeout=timeout)


def _print(message: str) -> None:
    sys.stderr.write(f"mutual: {printable_lines(message)}\n")
    sys.stderr.flush()
