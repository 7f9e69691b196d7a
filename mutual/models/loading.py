"""load_weights: a safetensors file or a torch checkpoint into a model, every tensor of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from mutual.models.reading import read_state
from mutual.recipe import first_line

_PREFIXES = ("module.", "_orig_mod.", "model.")
_COUNTER = "num_batches_tracked"


def load_weights(model: nn.Module, path: str | Path, *, dropped: Callable[[], Collection[str]] = tuple) -> None:
    """Loads a safetensors file or a torch checkpoint into `model`, every tensor of it.

    A checkpoint may hold the weights under a key such as `state_dict`, and with the prefixes that DDP and torch.compile add.

    Args:
        model: the model.
        path: the file.
        dropped: asked where the file has tensors that the model has not, and returns the names of those that may be left out.

    Raises:
        ValueError: the file is missing or unreadable, or its tensors are not those of the model; one line says which.
    """
    state = read_state(Path(path))
    expected = model.state_dict()
    state = _without_prefixes(state, expected)
    if not state.keys() <= expected.keys():
        left_out = dropped()
        state = {name: tensor for name, tensor in state.items() if name not in left_out}
    missing, unexpected = [name for name in expected if name not in state], [name for name in state if name not in expected]
    missing = [name for name in missing if not name.endswith(_COUNTER)]  # absent in checkpoints from other frameworks
    if missing or unexpected:
        raise ValueError(f"{path} holds another model: {_named('missing', missing)}{_named('unexpected', unexpected)}".rstrip("; "))
    different = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    if different:
        raise ValueError(f"{path}: {_shape_message(different, state, expected)}")
    for name, tensor in state.items():
        fault = _unusual(tensor, expected[name]) if not name.endswith(_COUNTER) else ""
        if fault:
            raise ValueError(f"{path}: {name} is {fault}")
    converted = {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}
    _check_finite(path, converted, parameters={name for name, _ in model.named_parameters(remove_duplicate=False)})
    try:
        model.load_state_dict(converted, strict=False)
    except Exception as error:  # a user's model may load its state by code of its own
        raise ValueError(f"{path} does not load into the model: {type(error).__name__}: {first_line(error)}") from error


def _unusual(actual: Tensor, expected: Tensor) -> str:
    """Returns why `actual` cannot stand for the model's tensor although their shapes are equal, or nothing."""
    if actual.layout != torch.strided or actual.is_nested:
        return f"sparse ({str(actual.layout).removeprefix('torch.')}); save it dense"
    if actual.is_quantized:
        return "quantized; save the model before quantization"
    if actual.device.type == "meta":
        return "without values (on the meta device)"
    kinds = [(tensor.is_complex(), tensor.is_floating_point()) for tensor in (actual, expected)]
    if kinds[0] != kinds[1]:
        return f"of {str(actual.dtype).removeprefix('torch.')}, the model's of {str(expected.dtype).removeprefix('torch.')}"
    return ""


def _check_finite(path: str | Path, state: dict[str, Tensor], *, parameters: set[str]) -> None:
    """Refuses NaN, and infinite parameters: every output would be NaN, and a training would stop at its first step with another cause.

    Buffers may be infinite, as attention masks are.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() or tensor.is_complex():
            checked = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
            bad = ~checked.isfinite() if name in parameters else checked.isnan()
            if bad.any():
                dtype = str(tensor.dtype).removeprefix("torch.")
                raise ValueError(
                    f"{path}: {name} is not finite in {dtype} ({int(bad.sum()):,} of {bad.numel():,} values); "
                    "the training that it comes from has probably diverged"
                )


def _without_prefixes(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strips what wrappers put before every name, as long as that brings the names nearer to the model's."""
    for prefix in _PREFIXES * 2:
        if state and all(name.startswith(prefix) for name in state) and not any(name in expected for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _shape_message(different: list[str], state: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    shown = "; ".join(f"{name} is {tuple(state[name].shape)}, the model's {tuple(expected[name].shape)}" for name in different[:3])
    last = list(expected)[-1]
    if (
        last in different
        and state[last].dim() == expected[last].dim() > 0
        and all(name.rpartition(".")[0] == last.rpartition(".")[0] for name in different)
    ):
        return f"class counts differ: the file has {state[last].shape[0]}, the model {expected[last].shape[0]} ({shown})"
    return f"tensors have other shapes: {shown}"


def _named(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}); "
