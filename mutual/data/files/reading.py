"""Reading all images of a data set in processes of their own: a decoder that crashes or does not end is a finding about an image."""

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
from typing import Protocol

import torch

from mutual.data.files.decoding import ImageError, decode, read_file

_TIMEOUT = 120.0
_IMAGES_PER_TASK = 16
"""Number of images that are handed to a process together."""


class Contents(Protocol):
    """Contents of image files, wherever they lie."""

    def content(self, index: int) -> bytes:
        """Returns the content of a file.

        Raises:
            ImageError: it cannot be read.
            OSError: the disk or the machine failed.
        """
        ...

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        ...


@dataclass(frozen=True)
class FileContents:
    """Contents of the files at `paths`."""

    paths: Sequence[Path]

    def content(self, index: int) -> bytes:
        """Returns the content of a file."""
        return read_file(self.paths[index])

    def name(self, index: int) -> str:
        """Returns the path of a file."""
        return str(self.paths[index])


@dataclass(frozen=True)
class ImageReport:
    """An image that was read: its index, the digest of its content, empty where there was none to read, and why it is bad, or empty."""

    index: int
    digest: str
    reason: str


def examine(contents: Contents, num_images: int, *, workers: int, timeout: float = _TIMEOUT) -> Iterator[ImageReport]:
    """Yields for each of `contents`, in no fixed order, whether it is an image that can be read; `timeout`: seconds for one."""
    waiting = deque(range(num_images))
    readers = [_Reader(contents) for _ in range(min(workers, num_images))]
    try:
        while waiting or any(reader.pending for reader in readers):
            for reader in readers:
                if waiting and not reader.pending:
                    reader.give([waiting.popleft() for _ in range(min(_IMAGES_PER_TASK, len(waiting)))])
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
                    readers[index] = _Reader(contents)
    finally:
        for reader in readers:
            reader.stop()


@dataclass
class _Reader:
    """A process that reads those of `contents` whose indices it is given, one after the other."""

    contents: Contents
    pending: deque[int] = field(default_factory=deque)
    ended: bool = False

    def __post_init__(self) -> None:
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if "fork" in methods else None)  # it need not import torch again
        self.connection, remote = context.Pipe()
        self._process: BaseProcess = context.Process(target=_read_images, args=(self.contents, remote, self.connection), daemon=True)
        self._process.start()
        remote.close()  # so that the end of the process closes the pipe
        self._since = 0.0

    def give(self, indices: Sequence[int]) -> None:
        self.pending = deque(indices)
        self._since = time.monotonic()
        with suppress(BrokenPipeError):  # the process ended by itself, which `poll` reports
            self.connection.send(list(indices))

    def poll(self, *, ready: bool, timeout: float) -> ImageReport | None:
        """Returns what came of the first pending image, or None if it is still being read; sets `ended` where it ended the process."""
        if not ready:
            if time.monotonic() - self._since < timeout:
                return None
            self.ended = True
            self._process.kill()
            return ImageReport(self.pending.popleft(), "", f"decoding it took more than {timeout:g} s")
        self._since = time.monotonic()
        try:
            digest, reason = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.ended = True
            self._process.join()
            return ImageReport(self.pending.popleft(), "", f"the decoder crashed ({_cause(self._process.exitcode)})")
        return ImageReport(self.pending.popleft(), digest, reason)

    def stop(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()


def _read_images(contents: Contents, connection: Connection, others: Connection) -> None:
    """Runs in the reader's process until the other end of `connection` is closed; it inherits `others`, that end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops it
    others.close()
    torch.set_num_threads(1)
    while True:
        try:
            indices = connection.recv()
            for index in indices:
                connection.send(_examine(contents, index))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _examine(contents: Contents, index: int) -> tuple[str, str]:
    digest = ""
    try:
        content = contents.content(index)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        decode(content, 3, path=contents.name(index))
    except ImageError as error:
        return digest, error.reason
    except OSError as error:
        return digest, f"{error.strerror or error}"
    return digest, ""


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"
