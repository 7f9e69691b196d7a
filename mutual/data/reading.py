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

from mutual.data.decoding import ImageError, decode, read_file

_MOST_SECONDS = 120.0
_AT_ONCE = 16
"""So many files are handed to a process together."""


@dataclass(frozen=True)
class Examined:
    """A file that was read: the digest of its content, empty where there was none to read, and why it is bad, or empty."""

    path: Path
    digest: str
    reason: str


def examine(paths: Sequence[Path], *, workers: int, most_seconds: float = _MOST_SECONDS) -> Iterator[Examined]:
    """Yields for each file, in no fixed order, whether it is an image that can be read; `most_seconds` is the limit for one file."""
    waiting = deque(paths)
    readers = [_Reader() for _ in range(min(workers, len(paths)))]
    try:
        while waiting or any(reader.given for reader in readers):
            for reader in readers:
                if waiting and not reader.given:
                    reader.give([waiting.popleft() for _ in range(min(_AT_ONCE, len(waiting)))])
            ready = wait([reader.connection for reader in readers if reader.given], timeout=1.0)
            for index, reader in enumerate(readers):
                if not reader.given:
                    continue
                result = reader.answer(ready=reader.connection in ready, most_seconds=most_seconds)
                if result is not None:
                    yield result
                if reader.ended:
                    waiting.extendleft(reversed(reader.given))
                    reader.stop()
                    readers[index] = _Reader()
    finally:
        for reader in readers:
            reader.stop()


@dataclass
class _Reader:
    """A process that reads the files that it is given, one after the other."""

    given: deque[Path] = field(default_factory=deque)
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
        self.given = deque(paths)
        self._since = time.monotonic()
        with suppress(BrokenPipeError):  # it ended by itself, which the answer tells
            self.connection.send([str(path) for path in paths])

    def answer(self, *, ready: bool, most_seconds: float) -> Examined | None:
        """Returns what came of the first file given, or None if it is still being read; sets `ended` where it ended the process."""
        if not ready:
            if time.monotonic() - self._since < most_seconds:
                return None
            self.ended = True
            self._process.kill()
            return Examined(self.given.popleft(), "", f"decoding it took more than {most_seconds:g} s")
        self._since = time.monotonic()
        try:
            digest, reason = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.ended = True
            self._process.join()
            return Examined(self.given.popleft(), "", f"the decoder crashed ({_cause(self._process.exitcode)})")
        return Examined(self.given.popleft(), digest, reason)

    def stop(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()


def _read_files(connection: Connection, others: Connection) -> None:
    """Is what a reader's process runs, until the other end of `connection` is closed; it inherits `others`, that end."""
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
