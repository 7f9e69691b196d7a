"""Reading all files of a data set in processes of their own: a decoder that crashes or does not end is a finding about a file."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from mutual.data.files.decoding import ImageError, decode, read_file

_TIMEOUT = 120.0
_FILES_PER_TASK = 16
"""Number of files that are handed to a process together."""


@dataclass(frozen=True)
class FileReport:
    """A file that was read: the digest of its content, empty where there was none to read, and why it is bad, or empty."""

    path: Path
    digest: str
    reason: str


def examine(paths: Sequence[Path], *, workers: int, timeout: float = _TIMEOUT) -> Iterator[FileReport]:
    """Yields for each file, in no fixed order, whether it is an image that can be read; `timeout`: seconds for one file."""
    waiting = deque(paths)
    readers = [_Reader() for _ in range(min(workers, len(paths)))]
    try:
        while waiting or any(reader.pending for reader in readers):
            for reader in readers:
                if waiting and not reader.pending:
                    reader.give([waiting.popleft() for _ in range(min(_FILES_PER_TASK, len(waiting)))])
            ready = wait([reader.connection for reader in readers if reader.pending], timeout=1.0)
            for index, reader in enumerate(readers):
                if not reader.pending:
                    continue
                result = reader.poll(ready=reader.connection in ready, timeout=timeout)
                if result is not None:
                    yield result
                if reader.ended:
                    waiting.extendleft(reversed(reader.pending))
                    reader.stop()
                    readers[index] = _Reader()
    finally:
        for reader in readers:
            reader.stop()


@dataclass
class _Reader:
    """A process that reads the files that it is given, one after the other."""

    pending: deque[Path] = field(default_factory=deque)
    ended: bool = False

    def __post_init__(self) -> None:
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if "fork" in methods else None)  # it need not import torch again
        self.connection, remote = context.Pipe()
        self._process: BaseProcess = context.Process(target=_read_files, args=(remote, self.connection), daemon=True)
        self._process.start()
        remote.close()  # so that the end of the process closes the pipe
        self._since = 0.0

    def give(self, paths: Sequence[Path]) -> None:
        self.pending = deque(paths)
        self._since = time.monotonic()
        with suppress(BrokenPipeError):  # the process ended by itself, which `poll` reports
            self.connection.send([str(path) for path in paths])

    def poll(self, *, ready: bool, timeout: float) -> FileReport | None:
        """Returns what came of the first pending file, or None if it is still being read; sets `ended` where it ended the process."""
        if not ready:
            if time.monotonic() - self._since < timeout:
                return None
            self.ended = True
            self._process.kill()
            return FileReport(self.pending.popleft(), "", f"decoding it took more than {timeout:g} s")
        self._since = time.monotonic()
        try:
            digest, reason = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.ended = True
            self._process.join()
            return FileReport(self.pending.popleft(), "", f"the decoder crashed ({_cause(self._process.exitcode)})")
        return FileReport(self.pending.popleft(), digest, reason)

    def stop(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()


def _read_files(connection: Connection, others: Connection) -> None:
    """Runs in the reader's process until the other end of `connection` is closed; it inherits `others`, that end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops it
    others.close()
    torch.set_num_threads(1)
    while True:
        try:
            paths = connection.recv()
            for path in paths:
                connection.send(_examine(Path(path)))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _examine(path: Path) -> tuple[str, str]:
    digest = ""
    try:
        content = read_file(path)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        decode(content, 3, path=path)
    except ImageError as error:
        return digest, error.reason
    except OSError as error:
        return digest, f"{error.strerror or error}"
    return digest, ""


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"
