"""TableSplit: images in a column of a memory-mapped arrow table, as contents of files, names of files or arrays of pixels."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mutual.data.datasets.hub.columns import check_table, is_list, is_text
from mutual.data.datasets.splits import EncodedSplit
from mutual.data.files.decoding import MAX_FILE_BYTES, ImageError, ImageSource, read_file
from mutual.recipe import format_value

if TYPE_CHECKING:
    from datasets.table import Table

_NUM_HASHED = 256
"""So many images of a split, evenly spaced, are read for its fingerprint; of the others it holds how many bytes they have."""
_ELSEWHERE = r"^[/\\~]|\x00|^[A-Za-z]:|://|::|(^|[/\\])\.\.([/\\]|$)"
"""What the name of a file must not have that a table names: it would lie outside the data's folder, or on another machine."""


@dataclass(frozen=True)
class TableSplit(EncodedSplit):
    """Images in a column of a table.

    A process that is handed a split gets the names of the table's files, which it maps into memory itself.

    Attributes:
        table: the table, in files; of all rows.
        column: the name of the column that holds the images.
        rows: the rows of the split's images, int64 `[N]`.
        labels: the split's labels.
        channels: 1 for grey, 3 for colour.
        title: what the split is called in messages.
        folder: where files lie that the table names; None where it may name none.
    """

    table: Table
    column: str
    rows: Tensor
    labels: Tensor
    channels: int
    title: str
    folder: Path | None

    def source(self, index: int) -> ImageSource:
        """Returns the image, opened and not decoded."""
        name = self.name(index)
        value = self._images[int(self.rows[index])]
        return ImageSource(self._content(value, name), self.channels, path=name)

    def decoded_as(self, channels: int) -> TableSplit:
        """Returns the same images, decoded with so many channels."""
        return replace(self, channels=channels)

    def name(self, index: int) -> str:
        """Returns what the image is called in messages."""
        return f"image {int(self.rows[index])} of {self.title}"

    def select(self, indices: Tensor) -> TableSplit:
        """Returns the split's images at `indices`, in their order."""
        return replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def portable_names(self) -> Iterator[str]:
        """Yields for each image the name of its file, or how many bytes it has; of some a digest of these."""
        sizes, files = _sizes(self._images), _names(self._images)
        names = None if files is None else files.to_pylist()
        hashed = set(np.linspace(0, len(self.rows) - 1, num=min(len(self.rows), _NUM_HASHED)).astype(int).tolist())
        for index, row in enumerate(self.rows.tolist()):
            name = str(sizes[row]) if names is None or names[row] is None else names[row]
            yield f"{name} {_digest(self._images[row])}" if index in hashed else name

    @cached_property
    def _images(self) -> Any:
        """The column, which remembers where its parts begin."""
        return self.table.column(self.column)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the column, which would be copied."""
        return {key: value for key, value in self.__dict__.items() if key != "_images"}

    def _content(self, value: Any, name: str) -> bytes:
        """Returns the content of the file that a value of the column is, or names, or would be."""
        path = None
        if isinstance(value, pa.StructScalar) and value.is_valid:
            path, value = value.get("path"), value["bytes"]
        if is_text(value.type):
            path = value
        elif is_list(value.type) or isinstance(value, pa.ExtensionScalar):
            return _as_file(value, name)
        elif value.is_valid:
            content: bytes = value.as_py()
            _check_size(len(content), name)
            return content
        if path is None or not path.is_valid:
            raise ImageError(name, "it has no content")
        return self._read(path.as_py(), name)

    def _read(self, path: str, name: str) -> bytes:
        refused = refused_path(path, self.folder)
        if refused:
            raise ImageError(name, refused)
        assert self.folder is not None, "refused otherwise"
        file = self.folder / path
        real, real_folder = (Path(os.path.realpath(each)) for each in (file, self.folder))  # Path.resolve fails where links go in a circle
        if not real.is_relative_to(real_folder):
            raise ImageError(name, f"its file {format_value(path)} is a link out of {self.folder}; it is not read")
        return read_file(file)


def table_split(table: Table, column: str, labels: Tensor, *, channels: int, title: str, folder: Path | None) -> TableSplit:
    """Returns all rows of a table as a split.

    Raises:
        ValueError: images are in files elsewhere, or the table is damaged.
    """
    images = table.column(column)
    check_table(images, title)
    names = _names(images)
    if names is not None:
        suspects = names.filter(pc.match_substring_regex(names, _ELSEWHERE).fill_null(False)) if folder else names.drop_null()
        if len(suspects):
            raise ValueError(f"{title}: {len(suspects):,} images are not in it: {refused_path(suspects[0].as_py(), folder)}")
    return TableSplit(table, column, torch.arange(len(labels)), labels, channels, title, folder)


def refused_path(path: str, folder: Path | None) -> str:
    """Returns why a file that a table names is not read, or nothing."""
    if folder is None:
        return f"its file {format_value(path)} is not part of the data set on the hub"
    if re.search(_ELSEWHERE, path):
        return f"its file {format_value(path)} would lie outside {folder}; name files by their paths in that folder"
    return ""


def _names(column: Any) -> Any:
    """Returns for each image the name of its file, null where the table has its content; None where the column names no files."""
    if is_text(column.type):
        return column
    if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return None
    contents, names = pc.struct_field(column, "bytes"), pc.struct_field(column, "path").cast(pa.string())
    return pc.if_else(pc.is_valid(contents), pa.scalar(None, pa.string()), names) if contents.null_count else None


def _sizes(column: Any) -> Any:
    """Returns for each image how many bytes, or numbers, it has, and -1 where it has none."""
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    lengths = pc.list_value_length(column) if is_list(column.type) else pc.binary_length(column)
    return lengths.fill_null(-1).to_numpy()


def _digest(value: Any) -> str:
    if isinstance(value, pa.StructScalar):
        value = value["bytes"] if value.is_valid else pa.scalar(None, pa.binary())
    if is_list(value.type) or isinstance(value, pa.ExtensionScalar):
        array = _array(value)
        content = b"" if array is None else repr(array.shape).encode() + array.tobytes()
    else:
        content = value.as_buffer() or b""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _check_size(size: int, name: str) -> None:
    if size > MAX_FILE_BYTES:
        raise ImageError(name, f"it has {size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
    if size == 0:
        raise ImageError(name, "it is empty")


def _as_file(value: Any, name: str) -> bytes:
    """Returns the file (PGM, PPM) that holds the pixels of an array: height x width, and grey or RGB behind or before them.

    Raises:
        ImageError: it is no such array, or has other values than 0 .. 255.
    """
    array = _array(value)
    if array is None:
        raise ImageError(name, "it has no content, or rows of several lengths")
    if array.dtype == bool:
        array = array * np.uint8(255)
    if array.ndim == 3:
        before, behind = array.shape[0] in (1, 3), array.shape[-1] in (1, 3)
        if before == behind:
            reason = "which of its sides are the channels is not clear" if before else "it has neither 1 nor 3 channels"
            raise ImageError(name, f"its shape is {array.shape}: {reason}")
        array = array.transpose(1, 2, 0) if before else array
    if array.ndim not in (2, 3) or array.size == 0:
        raise ImageError(name, f"its shape is {array.shape}; give height x width, with or without channels")
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() > 255:
        raise ImageError(name, f"its pixels are {array.dtype} from {array.min():g} to {array.max():g}; save whole numbers of 0 to 255")
    _check_size(array.size, name)
    letter = b"P6" if array.ndim == 3 and array.shape[-1] == 3 else b"P5"
    return b"%s %d %d 255\n" % (letter, array.shape[1], array.shape[0]) + array.astype(np.uint8).tobytes()


def _array(value: Any) -> Any:
    """Returns lists of lists as an array; None where they have no such form."""
    values = value.value.values if isinstance(value, pa.ExtensionScalar) else value.values
    if values is None:
        return None
    shape = [len(values)]
    while is_list(values.type):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            return None
        shape.append(lengths[0])
        values = values.flatten()
    return None if values.null_count else values.to_numpy(zero_copy_only=False).reshape(shape)
