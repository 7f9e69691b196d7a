"""IDX: the files of MNIST and its like, read with bounds that hold for damaged and hostile ones too."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor

from mutual.data.datasets.presence import idx_file

_MAX_BYTES = 2**32
_MOST_COMPRESSED = 1100
"""More bytes than Deflate makes of one, which is at most 1,032."""


def read_idx(folders: list[Path], name: str, *, dimensions: int) -> Tensor:
    """Returns the bytes (uint8) that the first IDX file of this name in `folders` holds, as a tensor with `dimensions` dimensions.

    Raises:
        ValueError: there is none, or it is not a whole IDX file of bytes.
    """
    path = idx_file(folders, name)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape, values = _read(cast("IO[bytes]", file), dimensions, most=_most_bytes(path))
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is no whole IDX file: {error}") from error
    return torch.from_numpy(np.frombuffer(values, dtype=np.uint8).reshape(shape))


def _read(file: IO[bytes], dimensions: int, *, most: int) -> tuple[list[int], bytearray]:
    """Returns the shape and the values; no more is read than the header announces, and that no more than `most`."""
    magic = file.read(4)
    if magic != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"it begins with {magic.hex()}, not with {bytes((0, 0, 8, dimensions)).hex()}")
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise ValueError("it ends within its header")
    shape = [int(size) for size in np.frombuffer(sizes, dtype=">u4")]
    wanted = math.prod(shape)
    if not 0 < wanted <= most:
        raise ValueError(f"its header announces {' x '.join(map(str, shape))} bytes, a file of its size can hold 1 to {most:,}")
    values = bytearray(file.read(wanted))
    if len(values) < wanted or file.read(1):
        raise ValueError(f"it holds {'fewer' if len(values) < wanted else 'more'} bytes than the {wanted:,} that its header announces")
    return shape, values


def _most_bytes(path: Path) -> int:
    size = path.stat().st_size
    return min(size * _MOST_COMPRESSED if path.suffix == ".gz" else size, _MAX_BYTES)
