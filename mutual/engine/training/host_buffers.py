"""HostBuffers: copies of a training's state in host memory, which is allocated once and used again."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T")
_Path = tuple[object, ...]
"""Keys and indices that lead to a tensor."""


class HostBuffers:
    """Copies nested states (dicts, lists and tuples of tensors and plain values), tensors into buffers of this object.

    The first copy into fresh memory takes many times as long as later ones, as the system provides its pages then. From a GPU, copies
    go into pinned memory on the current stream, and nothing waits for them before `wait`.

    Args:
        device: where the tensors are.

    Example:
        >>> buffers = HostBuffers(torch.device("cpu"))
        >>> weight = torch.ones(2)
        >>> copied = buffers.copy("a", {"weight": weight, "rate": 0.1})
        >>> weight.zero_()
        tensor([0., 0.])
        >>> copied
        {'weight': tensor([1., 1.]), 'rate': 0.1}
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._buffers: dict[_Path, tuple[object, Tensor]] = {}
        self._copied: torch.cuda.Event | None = None

    @torch.no_grad()
    def copy(self, key: str, state: _T) -> _T:
        """Returns a copy of `state`, which holds until the next copy with the same key."""
        copies: dict[int, Any] = {}
        for path, tensor in _tensors((key,), state):
            if id(tensor) not in copies:
                buffer = self._buffer(path, tensor)
                buffer.copy_(tensor, non_blocking=self._is_cuda)
                copies[id(tensor)] = buffer
        copied = copy.deepcopy(state, copies)  # finds the tensors copied already
        if self._is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        return copied

    def wait(self) -> None:
        """Waits until all copies are done; in any thread."""
        if self._copied is not None:
            self._copied.synchronize()

    def reservation(self, key: str, state: object) -> Callable[[], None]:
        """Returns a function that allocates what a copy of `state` takes, for a thread; no `copy` may be called meanwhile."""
        missing = [(path, tensor) for path, tensor in _tensors((key,), state) if path not in self._buffers]

        def reserve() -> None:
            for path, tensor in missing:
                buffer = self._buffer(path, tensor)
                ctypes.memset(buffer.data_ptr(), 0, buffer.nbytes)  # touches its pages, without Python's global lock

        return reserve

    def _buffer(self, path: _Path, tensor: Tensor) -> Tensor:
        form = tensor.shape, tensor.stride(), tensor.dtype
        known = self._buffers.get(path)
        if known is None or known[0] != form:
            buffer = torch.empty_like(tensor, device="cpu", memory_format=torch.preserve_format, pin_memory=self._is_cuda)
            self._buffers[path] = known = form, buffer
        return known[1]


def _tensors(path: _Path, value: object) -> Iterator[tuple[_Path, Tensor]]:
    """Yields the plain tensors in `value`, with where they are."""
    if isinstance(value, Tensor):
        if type(value) is Tensor and value.layout is torch.strided and not value.requires_grad:
            yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors((*path, key), item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors((*path, index), item)
