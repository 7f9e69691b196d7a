"""Memory, counted: bytes of tensors, not what an allocator has reserved for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def num_bytes(tensors: Iterable[object]) -> int:
    """Returns the bytes of the tensors among `tensors`."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def state_bytes(modules: Iterable[nn.Module], optimizer: torch.optim.Optimizer | None = None) -> int:
    """Returns the bytes of parameters and buffers, and of gradients and optimizer state of what `optimizer` trains."""
    total = sum(num_bytes([*module.parameters(), *module.buffers()]) for module in modules)
    if optimizer is not None:
        total += sum(num_bytes(group["params"]) for group in optimizer.param_groups)
        total += sum(num_bytes(state.values()) for state in optimizer.state.values())
    return total


def saved_bytes(run: Callable[[], object], parameters: Iterable[nn.Parameter]) -> int:
    """Returns the bytes of what `run` keeps for a backward, `parameters` and views of the same memory left out."""
    held = {parameter.data_ptr() for parameter in parameters}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = run()  # the graph must live while its tensors are counted
    total = sum(storages.values())
    del kept
    return total
