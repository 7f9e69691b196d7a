"""Full precision: losses compute in float32 at least, whatever the autocast dtype around them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def upcast(value: Any) -> Any:
    """Returns tensors of half precision in float32, in lists too; everything else as it is."""
    if isinstance(value, list):
        return [upcast(each) for each in value]
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value


def detached(output: Tensor) -> Tensor:
    """Returns `output` without its graph; a copy of one of inference mode, which no backward could use."""
    return output.clone() if output.is_inference() and not torch.is_inference_mode_enabled() else output.detach()


def in_full_precision(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Returns `function` that computes outside of autocast, with its tensors in float32 at least.

    Example:
        >>> @in_full_precision
        ... def product(a, b):
        ...     return a @ b
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     product(torch.ones(1, 2, dtype=torch.bfloat16), torch.ones(2, 1)).dtype
        torch.float32
    """

    @functools.wraps(function)
    def compute(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        values = [upcast(value) for value in args]
        with torch.autocast(_device_type(values), enabled=False):
            return function(*values, **{name: upcast(value) for name, value in kwargs.items()})

    return compute


def _device_type(values: list[Any]) -> str:
    for value in values:
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, Tensor):
            return first.device.type
    raise AssertionError("a loss reads a tensor")
