"""ImageStore: decoded images of any sizes in one file, which all processes map into memory; written once, and only ever appended to.

A folder holds `images.bin`, the pixels of one image behind those of the other, and `table.bin`, a row for each. A row is written when its
pixels are on the disk, and `complete.json` when all rows are: what a process leaves that was killed goes on where it ended.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mutual.data.files.writing import UNFINISHED, open_no_follow, write_file
from mutual.recipe import InputError

MARK = ".mutual-decoded.json"
"""The mark of a folder that is ours; nothing is written into another."""
FORMAT = 1
_IMAGES, _TABLE, _COMPLETE = "images.bin", "table.bin", "complete.json"
_ROW = np.dtype([("end", "<u8"), ("channels", "<u4"), ("height", "<u4"), ("width", "<u4"), ("is_interleaved", "<u4"), ("checksum", "<u4")])
_SYNCED_BYTES = 2**28
"""What is written at most before the disk is asked to keep it."""


class ImageStore:
    """Images in a folder, each a function of its number alone.

    Args:
        folder: the folder, which is complete.
        num_images: how many there are.
    """

    def __init__(self, folder: Path, num_images: int) -> None:
        self._folder = folder
        self._rows = _read_rows(folder)
        self._map: NDArray[np.uint8] | None = None
        path = folder / _IMAGES
        found = _summary(self._rows, path.stat().st_size if path.exists() else 0)
        is_whole = found == _read_json(folder / _COMPLETE) and len(self._rows) == num_images
        if not (is_whole and _fitting(self._rows, found["bytes"]).all()):
            raise InputError(f"{folder} is damaged: its files are not those that were written; remove it, and it is made anew")

    def image(self, index: int) -> Tensor | None:
        """Returns an image, uint8 `[C, H, W]`, with the strides that it was stored with; None for one that could not be made.

        Raises:
            OSError: its pixels are not those that were stored.
        """
        row = self._rows[index]
        size = int(row["channels"]) * int(row["height"]) * int(row["width"])
        if size == 0:
            return None
        content = np.array(self._mapped()[int(row["end"]) - size : int(row["end"])])
        if zlib.crc32(content.data) != row["checksum"]:
            raise OSError(errno.EIO, "a decoded image is damaged; remove the folder, and it is made anew", str(self._folder))
        channels, height, width = (int(row[key]) for key in ("channels", "height", "width"))
        pixels = torch.from_numpy(content)
        return pixels.view(height, width, channels).permute(2, 0, 1) if row["is_interleaved"] else pixels.view(channels, height, width)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the map behind; a process that is sent the store maps the file itself."""
        return {**self.__dict__, "_map": None}

    def _mapped(self) -> NDArray[np.uint8]:
        if self._map is None:
            self._map = np.memmap(self._folder / _IMAGES, np.uint8, mode="r")
        return self._map


class ImageBlock:
    """Some images as bytes, as one process hands them to another.

    Args:
        images: uint8 `[C, H, W]`, or None for one that could not be made.
    """

    def __init__(self, images: Iterable[Tensor | None]) -> None:
        contents, rows = [np.zeros(0, np.uint8)], []
        for image in images:
            pixels = torch.zeros(1, 0, 0, dtype=torch.uint8) if image is None else image
            channels, height, width = pixels.shape
            is_interleaved = channels > 1 and not pixels.is_contiguous() and pixels.permute(1, 2, 0).is_contiguous()
            content = (pixels.permute(1, 2, 0) if is_interleaved else pixels).contiguous().numpy().reshape(-1)
            contents.append(content)
            rows.append((len(content), channels, height, width, is_interleaved, zlib.crc32(content.data)))
        self.content = torch.from_numpy(np.concatenate(contents))  # which processes share
        self.rows = np.array(rows, _ROW)
        self.rows["end"] = np.cumsum(self.rows["end"])


class ImageWriter:
    """Appends images to a folder that is not complete; those of an earlier process that was cut stay.

    Args:
        folder: the folder, which carries the mark and which this process has locked.

    Attributes:
        num_images: how many are there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = _whole_rows(folder)
        self._images, self._table = (
            open(folder / name, "ab", opener=open_no_follow)  # noqa: SIM115, `close` closes them
            for name in (_IMAGES, _TABLE)
        )
        self._cut()
        self._waiting: list[NDArray[np.void]] = []
        self._end = self._synced_end = self._last_end()

    @property
    def num_images(self) -> int:
        """How many images are there, or are being written."""
        return len(self._rows) + sum(map(len, self._waiting))

    def append(self, block: ImageBlock) -> None:
        """Writes images behind the others.

        Raises:
            OSError: the disk is full, say; what is there whole stays.
        """
        rows = block.rows.copy()
        rows["end"] += self._end
        _write(self._images.fileno(), block.content.numpy().data)
        self._waiting.append(rows)
        self._end = int(rows["end"][-1])
        if self._end - self._synced_end > _SYNCED_BYTES:
            self._sync()

    def complete(self) -> None:
        """Makes the folder one that is read."""
        self._sync()
        write_file(self._folder / _COMPLETE, json.dumps(_summary(self._rows, self._last_end())).encode(), synced=True)

    def close(self) -> None:
        """Closes the files; what was not written whole is cut off, so that it takes no space."""
        self._cut()
        self._images.close()
        self._table.close()

    def _sync(self) -> None:
        os.fsync(self._images.fileno())
        rows = np.concatenate([np.zeros(0, _ROW), *self._waiting])
        _write(self._table.fileno(), rows.tobytes())
        os.fsync(self._table.fileno())
        self._rows, self._waiting, self._synced_end = np.concatenate([self._rows, rows]), [], self._end

    def _last_end(self) -> int:
        return int(self._rows["end"][-1]) if len(self._rows) else 0

    def _cut(self) -> None:
        os.ftruncate(self._images.fileno(), self._last_end())
        os.ftruncate(self._table.fileno(), self._rows.nbytes)


def is_complete(folder: Path) -> bool:
    """Returns whether the images of a folder can be read."""
    return (folder / _COMPLETE).is_file()


@contextmanager
def locked_folder(folder: Path, about: Mapping[str, Any], *, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Context in which this process alone writes the folder, which is made, and marked as what `about` says; others wait.

    Args:
        folder: the folder.
        about: what its images are.
        waits: is called before another process is waited for.

    Raises:
        InputError: it holds something else.
        OSError: it cannot be made, or its disk knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder, waits)
        check_mark(folder, about)
        if not (folder / MARK).exists():
            write_file(folder / MARK, json.dumps(about, indent=1).encode(), synced=True)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, waits: Callable[[], None]) -> None:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(folder)) from error


def check_mark(folder: Path, about: Mapping[str, Any]) -> None:
    """Raises an InputError where a folder is there that is not ours, or holds other images than `about` says."""
    path = folder / MARK
    if not path.exists():
        if any(not entry.name.startswith(UNFINISHED) for entry in folder.iterdir()):
            raise InputError(f"{folder} holds files and no decoded images ({MARK}); give another folder")
        return
    if _read_json(path) != about:
        raise InputError(f"{path} is damaged: it does not say what the folder is named after; remove the folder, and it is made anew")


def _whole_rows(folder: Path) -> NDArray[np.void]:
    """Returns the rows of the images that are there whole, after whatever cut the process that wrote them."""
    path = folder / _IMAGES
    rows, size = _read_rows(folder), path.stat().st_size if path.exists() else 0
    num_bytes, fits = _num_bytes(rows), _fitting(rows, size)
    rows = rows[: len(rows) if fits.all() else int(np.flatnonzero(~fits)[0])]
    content = np.memmap(path, np.uint8, mode="r") if size else np.zeros(0, np.uint8)
    while len(rows):  # what was written last is what a cut may have torn
        end, length = int(rows["end"][-1]), int(num_bytes[len(rows) - 1])
        if zlib.crc32(content[end - length : end].tobytes()) == rows["checksum"][-1]:
            break
        rows = rows[:-1]
    return rows


def _fitting(rows: NDArray[np.void], size: int) -> NDArray[np.bool_]:
    """Returns which rows say where an image lies in a file of `size` bytes, if those before them do: they may be anybody's."""
    is_possible = rows["channels"].astype(np.float64) * rows["height"] * rows["width"] <= size
    return is_possible & (rows["end"] == np.cumsum(_num_bytes(rows))) & (rows["end"] <= size) & (rows["channels"] > 0)


def _num_bytes(rows: NDArray[np.void]) -> NDArray[np.int64]:
    number: NDArray[np.int64] = rows["channels"].astype(np.int64) * rows["height"] * rows["width"]
    return number


def _summary(rows: NDArray[np.void], num_bytes: int) -> dict[str, int]:
    return {"rows": len(rows), "checksum": zlib.crc32(rows.tobytes()), "bytes": num_bytes}


def _read_json(path: Path) -> Any:
    """Returns what a file holds, None where that is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def _read_rows(folder: Path) -> NDArray[np.void]:
    path = folder / _TABLE
    content = path.read_bytes() if path.exists() else b""
    return np.frombuffer(content[: len(content) // _ROW.itemsize * _ROW.itemsize], _ROW)


def _write(descriptor: int, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
