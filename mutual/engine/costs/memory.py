"""Bytes of tensors, counted; an allocator may have reserved more."""

from __future__ import annotations

import gc
from collections import Counter, deque
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def num_bytes(tensors: Iterable[object]) -> int:
    """Returns the bytes of those among `tensors` that are tensors.

    Example:
        >>> num_bytes([torch.zeros(2, 3), "step"])
        24
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def state_bytes(modules: Iterable[nn.Module], optimizer: torch.optim.Optimizer | None = None) -> int:
    """Returns the bytes of parameters and buffers, and of the gradients and the state that `optimizer` needs."""
    size = sum(num_bytes([*module.parameters(), *module.buffers()]) for module in modules)
    if optimizer is not None:
        size += sum(num_bytes(group["params"]) for group in optimizer.param_groups)
        size += sum(num_bytes(state.values()) for state in optimizer.state.values())
    return size


class _Ledger:
    """Counts the storages that are saved for a backward, each for as long as some graph saves it.

    Attributes:
        peak: the most bytes at a time.
    """

    def __init__(self, left_out: Iterable[int]) -> None:
        self.peak = 0
        self._num_bytes = 0
        self._num_saved = Counter(left_out)

    def add(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage once more."""
        self._num_saved[storage.data_ptr()] += 1
        if self._num_saved[storage.data_ptr()] == 1:
            self._num_bytes += storage.nbytes()
            self.peak = max(self.peak, self._num_bytes)

    def remove(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage once less."""
        self._num_saved[storage.data_ptr()] -= 1
        if self._num_saved[storage.data_ptr()] == 0:
            self._num_bytes -= storage.nbytes()


class _Saved:
    """A tensor that is saved for a backward, which the graph holds."""

    def __init__(self, tensor: Tensor, ledger: _Ledger) -> None:
        self.tensor = tensor.detach()  # a tensor with its graph would hold what holds this
        self._ledger = ledger
        ledger.add(tensor.untyped_storage())

    def __del__(self) -> None:
        self._ledger.remove(self.tensor.untyped_storage())


def saved_bytes(run: Callable[[], Iterable[object]], parameters: Iterable[nn.Parameter]) -> int:
    """Returns the most bytes that are saved for a backward at a time, without `parameters` and views of them.

    Args:
        run: runs forwards, and gives outputs with their graphs one after another: of each the graph is let go before the next.
        parameters: what is not counted.
    """
    ledger = _Ledger(parameter.untyped_storage().data_ptr() for parameter in parameters)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Saved(tensor, ledger), lambda saved: saved.tensor):
        deque(run(), maxlen=0)
    return ledger.peak


def release_memory(device: torch.device) -> None:
    """Frees what was built to be measured: reference cycles keep models, and a GPU's allocator their memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
