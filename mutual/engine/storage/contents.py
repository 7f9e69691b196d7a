"""Contents of files: bytes, or functions that write them piece by piece, so that memory holds them once.

What takes long in them (copying, hashing, writing) releases Python's global lock, so that a thread may do it behind a training.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

PIECE = 2**24
"""Bytes that are written at once."""
_ALIGNMENT = 8
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.complex64: "C64",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Sink(Protocol):
    """What is written to."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Appends `data`."""


Content = bytes | Callable[[Sink], object]
"""Content of a file, or a function that writes it."""


def content_bytes(content: Content) -> bytes:
    """Returns `content` as bytes.

    Example:
        >>> content_bytes(lambda sink: sink.write(b"state"))
        b'state'
    """
    if isinstance(content, bytes):
        return content
    stream = io.BytesIO()
    content(stream)
    return stream.getvalue()


def tensor_content(tensors: Mapping[str, Tensor]) -> Content:
    """Returns the content of a safetensors file with `tensors`, which are read when it is written.

    Example:
        >>> import safetensors.torch
        >>> safetensors.torch.load(content_bytes(tensor_content({"a": torch.ones(2)})))
        {'a': tensor([1., 1.])}
    """

    def write(sink: Sink) -> None:
        names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # each is aligned to the size of its elements
        entries, offset = {}, 0
        for name in names:
            tensor = tensors[name]
            end = offset + tensor.numel() * tensor.element_size()
            entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
            offset = end
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % _ALIGNMENT)
        sink.write(len(header).to_bytes(8, "little") + header)
        for name in names:
            values = tensors[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
            data = values.reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(data), PIECE):
                sink.write(data[start : start + PIECE])

    return write


def state_content(state: Mapping[str, Any]) -> Content:
    """Returns the content of a file of `torch.save` with `state`, which is read when it is written."""

    def write(sink: Sink) -> None:
        stream = _Deferred(sink)
        torch.save(state, stream)  # type: ignore[arg-type]  # it calls `write` and `flush` alone
        if stream.error is not None:
            raise stream.error

    return write


class _Deferred:
    """Keeps an error of `sink`, as torch's writer gives one that does not say what has happened in the place of any that it meets."""

    def __init__(self, sink: Sink) -> None:
        self.error: Exception | None = None
        self._sink = sink

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        if self.error is None:
            try:
                self._sink.write(view)
            except OSError as error:
                self.error = error
        return view.nbytes

    def flush(self) -> None:
        """Does nothing: who has opened the file flushes it."""
