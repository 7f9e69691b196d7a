"""Loader: torch's DataLoader, whose workers serve one epoch and split after another and outlive signals, until it or the process ends."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawValue
from types import FrameType
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item")
_SIGNALS = (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
"""What a scheduler or a terminal sends to all processes of a job."""


class Loader(Generic[Item]):
    """What `dataset` makes of requests, one item of each, in their order; made in `workers` processes, or in this one if it is 0.

    Each process is `prefetch` requests ahead. They are started for the first requests and serve all others, too, until `close`.

    It alone holds torch's iterator, so that `close` ends the workers whatever an exception's traceback holds.

    Attributes:
        workers: number of processes.
    """

    def __init__(self, dataset: Dataset[Item], *, workers: int, prefetch: int) -> None:
        self.workers = workers
        self._termination = _Termination()
        self._requests = _Requests()
        self._loader: DataLoader[Item] | None = DataLoader(
            dataset,
            batch_sampler=self._requests,  # type: ignore[arg-type]
            collate_fn=_only,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=self._termination.begin_worker if workers else None,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the loader seeds its workers from it, and leaves the global one alone
        )
        self._iterator: Iterator[Item] | None = None
        self._num_begun = 0

    def __call__(self, requests: Iterable[object]) -> Iterator[Item]:
        """Begins to load `requests` and returns what is made of them; with workers, those before can be asked for no longer."""
        assert self._loader is not None, "the loader is open"
        self._requests.present = requests
        if not self.workers:
            return iter(self._loader)
        with _held_signals():
            self._iterator = iter(self._loader)
        self._termination.allow_at_exit()
        self._num_begun += 1
        return self._items(self._num_begun)

    def close(self) -> None:
        """Ends the worker processes."""
        self._termination.allow()
        self._iterator = self._loader = None

    def _items(self, number: int) -> Iterator[Item]:
        while True:
            assert self._iterator is not None, "the loader is open"
            assert number == self._num_begun, "no other requests have begun"
            try:
                item = next(self._iterator)
            except StopIteration:
                return
            yield item


def _only(items: list[Item]) -> Item:
    (item,) = items
    return item


class _Requests:
    """The requests that torch's loader takes when it begins anew."""

    present: Iterable[object] = ()

    def __iter__(self) -> Iterator[object]:
        return iter(self.present)


@contextmanager
def _held_signals() -> Iterator[None]:
    """Context in which a job's signals wait; in a process that is started there until it has handlers, as by default they would end it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Termination:
    """Lets worker processes know whether SIGTERM is meant for them.

    A scheduler's SIGTERM reaches the whole job, and the training process then needs its workers until it has written its checkpoint.
    At the end `multiprocessing` sends SIGTERM to the workers too, and waits for them without a limit: they must obey then.
    """

    def __init__(self) -> None:
        self._allowed = RawValue(ctypes.c_bool, False)
        self._parent = os.getpid()

    def allow(self) -> None:
        """From now on SIGTERM ends the workers."""
        self._allowed.value = True
        atexit.unregister(self.allow)

    def allow_at_exit(self) -> None:
        """Calls `allow` when this process exits; registered after torch's and multiprocessing's own calls, it comes before them."""
        atexit.unregister(self.allow)
        atexit.register(self.allow)

    def begin_worker(self, _: int) -> None:
        """Sets the signal handlers of a worker process."""
        for signal_number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(signal_number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._obey)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._obey(signal.SIGTERM, None)  # one may have come before the handler was there

    def _obey(self, _number: int, _frame: FrameType | None) -> None:
        if self._allowed.value or os.getppid() != self._parent:
            os._exit(0)  # at once: the queues of a worker wait at a regular exit
