"""Rendezvous: the processes of a launch tell each other what they are through the launcher's store, before any collective and without one.

A collective waits for a process that never comes, or that the network does not reach; here each wait has an end, and whoever is missing
is known by its rank.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from mutual.commandline import launched_rank
from mutual.group import Store, has_agent_store, keep_launch_store, launch_store

_POLL = 0.02
_Result = TypeVar("_Result")


class Rendezvous:
    """The processes of a launch as one of them sees them.

    Args:
        rank: of this process.
        size: number of processes.
        store: what they meet in; None: this process is the only one, or cannot reach it.
        kept: the store itself, where this process keeps it.
    """

    def __init__(self, rank: int, size: int, store: Store | None = None, kept: Store | None = None) -> None:
        self.rank = rank
        self.size = size
        self.store = store
        self._kept = kept

    @classmethod
    def of_launch(cls, timeout: float) -> Rendezvous:
        """Returns the processes that the launcher says it has started; the store may take `timeout` seconds to be reached."""
        rank, size = launched_rank()
        if size < 2:
            return cls(0, 1)
        kept = keep_launch_store(timeout=timeout) if rank == 0 and not has_agent_store() else None
        return cls(rank, size, launch_store("diagnosis", timeout=timeout), kept)

    def exchange(self, stage: str, value: object, *, timeout: float, ranks: set[int] | None = None) -> dict[int, Any]:
        """Returns by rank the JSON values that processes give for `stage`; those that have not in `timeout` seconds are missing.

        Args:
            stage: what is exchanged; each name is used once.
            value: what this process gives.
            timeout: seconds to wait for the others.
            ranks: for which processes to wait, all by default.
        """
        content = json.dumps(value)
        if self.store is None:
            return {self.rank: json.loads(content)}
        self.store.set(f"{stage}/{self.rank}", content)
        missing, deadline = set(range(self.size)) if ranks is None else set(ranks), time.monotonic() + timeout
        values: dict[int, Any] = {}
        while missing:
            arrived = {rank for rank in missing if self.store.check([f"{stage}/{rank}"])}
            values.update({rank: json.loads(self.store.get(f"{stage}/{rank}")) for rank in arrived})
            missing -= arrived
            if time.monotonic() > deadline:
                break
            if missing:
                time.sleep(_POLL)
        return dict(sorted(values.items()))


def run_with_timeout(timeout: float, function: Callable[[], _Result]) -> _Result:
    """Returns what `function` returns in a thread of its own, which is left behind where that takes longer.

    Raises:
        TimeoutError: it did not come to its end in `timeout` seconds.
    """
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=run, name="diagnosis", daemon=True).start()
    try:
        return future.result(timeout)
    except FutureTimeoutError as error:  # of Python 3.11 on it is the built-in one
        if future.done():  # `function` raised it, or has just ended
            return future.result()
        raise TimeoutError(f"no answer within {timeout:g} s") from error
