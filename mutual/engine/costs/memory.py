"""Bytes of tensors, counted; an allocator may have reserved more."""

from __future__ import annotations

import gc
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


def saved_bytes(run: Callable[[], object], parameters: Iterable[nn.Parameter]) -> int:
    """Returns the bytes that `run` saves for a backward, without `parameters` and views of them."""
    parameter_storages = {parameter.data_ptr() for parameter in parameters}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameter_storages:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # as it is, one that its own operation saves would keep its graph for ever

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run()  # its graph must live while the tensors are counted
    size = sum(storages.values())
    del output
    return size


def release_memory(device: torch.device) -> None:
    """Frees what was built to be measured: reference cycles keep models, and a GPU's allocator their memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
