"""StopSignals: SIGTERM, SIGUSR1 (SLURM's before preemption, if asked for) and SIGINT end a run at the next update, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from mutual.recipe import RunError


class StoppedError(RunError):
    """The run has been stopped by a signal, after writing a checkpoint."""


class StopSignals:
    """Context in which the first of the signals is recorded; a second SIGINT interrupts at once.

    Outside the main thread, where Python allows no handlers, nothing is recorded.

    Attributes:
        received: the signal, or None.

    Example:
        >>> with StopSignals() as signals:
        ...     signal.raise_signal(signal.SIGTERM)
        >>> signals.received.name
        'SIGTERM'
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {signum: signal.signal(signum, self._record) for signum in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def _record(self, signum: int, _frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(signum)
