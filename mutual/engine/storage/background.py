"""BackgroundWriter: writes files in a thread behind the training."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable


class BackgroundWriter:
    """Runs one write at a time in a thread, and raises its error where it is waited for.

    The thread never communicates with other ranks, and the process does not end before it, unless it is killed.

    Example:
        >>> writer, written = BackgroundWriter(), []
        >>> writer.start(lambda: written.append(1))
        >>> writer.wait()
        >>> written
        [1]
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._cancelled = threading.Event()

    def start(self, write: Callable[[], object]) -> None:
        """Starts `write`; the one before must have been waited for."""
        assert self._thread is None, "one write at a time"
        self._done.clear()
        self._thread = threading.Thread(target=self._run, args=(write,), name="writer")
        self._thread.start()

    def wait(self) -> None:
        """Waits for the write that was started last, if any, and raises what it has raised."""
        error = self._join()
        if error is not None:
            raise error

    def check(self) -> None:
        """Raises InterruptedError after `cancel`; to be called by a write between its pieces."""
        if self._cancelled.is_set():
            raise InterruptedError("the write was given up")

    def cancel(self) -> None:
        """Makes a write that is under way end at its next `check`."""
        self._cancelled.set()

    def close(self) -> None:
        """Waits for a write that is under way, and warns of an error, for which nobody waits any more; Ctrl-C gives it up."""
        try:
            error = self._join()
        except KeyboardInterrupt:
            self.cancel()
            self._join()
            raise
        if error is not None and not self._cancelled.is_set():
            warnings.warn(f"the last checkpoint was not written ({type(error).__name__}: {error})", stacklevel=2)

    def _join(self) -> BaseException | None:
        if self._thread is not None:
            self._done.wait()  # a `join` that Ctrl-C interrupts would take the thread for ended
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        return error

    def _run(self, write: Callable[[], object]) -> None:
        try:
            write()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised in the main thread
            self._error = error
        finally:
            self._done.set()
