"""SIGTERM, SIGUSR1 (what SLURM is asked to send before it preempts) and SIGINT end a run at the next update, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from mutual.recipe import RunError


class StoppedError(RunError):
    """The run was asked to stop and did, after writing a checkpoint."""


class StopSignals:
    """While entered, remembers that one of the signals came; a second SIGINT interrupts at once.

    Outside the main thread, where Python allows no handlers, it remembers nothing.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
