"""build: a model by any factory, checked to be one that can be trained, saved and scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from mutual.recipe import call_users

Factory = Callable[..., nn.Module]


def build(name: str, factory: Factory, /, **arguments: Any) -> nn.Module:
    """Returns the model that `factory` makes of `arguments`.

    Raises:
        ValueError: it does not take them, fails, or gives something that cannot be trained, saved or scored; one line says which.
    """
    model = call_users(name, factory, **arguments)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} gave a {type(model).__name__}, not a torch.nn.Module")
    tensors = (*model.parameters(), *model.buffers())
    if any(isinstance(tensor, UninitializedBuffer | UninitializedParameter) for tensor in tensors):
        raise ValueError(f"{name} has lazy modules, whose weights have no shape yet; give their sizes")
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError(f"{name} has weights without values (on the meta device); build it on the CPU")
    other = next((key for key, value in model.state_dict().items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise ValueError(f"{name} keeps {other} in its state, which is no tensor and cannot stand in a weights file")
    return model
