"""load_weights: a safetensors file or a torch checkpoint into a model, every tensor of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

_NESTS = ("state_dict", "model", "model_state", "model_state_dict", "ema", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Loads a safetensors file or a torch checkpoint into `model`, every tensor of it.

    A checkpoint may hold the weights under a key such as `state_dict`, and with the prefixes that DDP and torch.compile add.

    Raises:
        ValueError: the file is missing or unreadable, or its tensors are not those of the model; one line says which.
    """
    check_exists(Path(path))
    state = _read_safetensors(path) if Path(path).suffix == ".safetensors" else _read_checkpoint(path)
    expected = model.state_dict()
    state = _without_prefixes(state, expected)
    missing, unexpected = [name for name in expected if name not in state], [name for name in state if name not in expected]
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]  # absent in checkpoints from other frameworks
    if missing or unexpected:
        raise ValueError(f"{path} holds another model: {_named('missing', missing)}{_named('unexpected', unexpected)}".rstrip("; "))
    different = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    if different:
        raise ValueError(f"{path}: {_shape_message(different, state, expected)}")
    model.load_state_dict(state, strict=False)


def check_exists(path: Path) -> None:
    """Raises a ValueError that lists the files beside it where there is no file `path`."""
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob(f"*{path.suffix}"))[:5] if path.parent.is_dir() else []
        raise ValueError(
            f"no weights file {path}"
            + (f"; the folder holds {', '.join(near)}" if near else "; train that peer first, or give another path")
        )


def _read_safetensors(path: str | Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error})") from error
    return tensors


def _read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} is no torch checkpoint of plain tensors ({reason})") from error
    while isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        nests = [key for key in _NESTS if isinstance(content.get(key), dict)]
        if not nests:
            break
        content = content[nests[0]]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no weights: neither tensors by name nor any of {', '.join(_NESTS)}")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _without_prefixes(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strips what wrappers put before every name, as long as that brings the names nearer to the model's."""
    for prefix in _PREFIXES * 2:
        if state and all(name.startswith(prefix) for name in state) and not any(name in expected for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _shape_message(different: list[str], state: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    shown = "; ".join(f"{name} is {tuple(state[name].shape)}, the model's {tuple(expected[name].shape)}" for name in different[:3])
    last = list(expected)[-1]
    if last in different and all(name.rpartition(".")[0] == last.rpartition(".")[0] for name in different):
        return f"class counts differ: the file has {state[last].shape[0]}, the model {expected[last].shape[0]} ({shown})"
    return f"tensors have other shapes: {shown}"


def _named(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}); "
