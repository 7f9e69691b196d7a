"""Taps: what modules of a model return, for a training loop of the user's own that calls the model itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mutual.group.peers.taps import INPUT, Keep, Outputs, find_module, tap
from mutual.recipe import did_you_mean

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Names under which torch.compile, FSDP and activation checkpointing hold the module that they wrap."""


class _Kept(NamedTuple):
    """An output: what `take` gives of it, and the model's own tensor with its version when it was tapped."""

    value: Tensor
    original: Tensor | None = None
    version: int = 0
    training: bool = False


class Taps:
    """Keeps what the modules of `model` at `paths` return, through forward hooks; `take` gives it.

    The model is called as ever: with whatever arguments, in training or eval mode, with or without gradients, under autocast, wrapped in
    DDP or compiled. A compiled model must be tapped before its first call. As a context manager, it removes its hooks at the end.

    Args:
        model: the model; what stands within wrappers (DDP, torch.compile, AveragedModel) is found by its path in the bare model.
        paths: module paths such as "layer3.1"; "fc:input" for what a module is given, "backbone:0" for the entry of a tuple or a mapping.
            Of a module that returns several tensors, its path alone gives each, as "backbone:0", "backbone:1", ...

    Raises:
        ValueError: the model has no module at a path; the message lists the near ones.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True), nn.Linear(3, 4))
        >>> taps = Taps(model, ["0", "2:input"])
        >>> logits = model(torch.ones(5, 2))
        >>> {path: tuple(output.shape) for path, output in taps.take().items()}
        {'0': (5, 3), '2:input': (5, 3)}
        >>> taps.remove()
    """

    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        modules = _modules_by_path(model)
        self._kept: dict[str, dict[str, _Kept | None]] = {}  # by path and name of the tensor; None: it is not asked for
        self._unchanged: set[tuple[str, bool]] = set()  # by name, in training or eval mode: what the model does not change in place
        self._modules = {path: find_module(modules, path if path.endswith(INPUT) else _module_path(path)) for path in paths}
        self._handles = [tap(module, self._keep(path, module), reads_input=path.endswith(INPUT)) for path, module in self._modules.items()]

    def take(self) -> Outputs:
        """Returns by path the outputs of the latest forward, `[B, ...]`, and keeps them no longer.

        They are as the modules returned them: with their graph where there is one, in autocast's precision, and before anything that the
        model has done to them in place. Of a module that has run several times, it is the last time.

        Raises:
            RuntimeError: a module has not run since the last call.
            ValueError: a module returns no tensor, or none of that name.
        """
        kept, self._kept = self._kept, {}
        outputs: Outputs = {}
        for path in self._modules:
            if path not in kept:
                raise RuntimeError(
                    f"{path!r} has not run since the last take(): call the model first; a compiled one is tapped before its first call"
                )
            found = {name: each for name, each in kept[path].items() if each is not None}
            if not found:
                near = did_you_mean(path, kept[path]) or "; it gives no tensor"
                raise ValueError(f"{_module_path(path)!r} gives no {path!r}{near}")
            for name, each in found.items():
                self._learn_whether_changed(name, each)
                outputs[name] = each.value
        return outputs

    def remove(self) -> None:
        """Removes the hooks, and forgets what they have kept."""
        for handle in self._handles:
            handle.remove()
        self._kept = {}

    def __enter__(self) -> Taps:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _keep(self, path: str, tapped: nn.Module) -> Keep:
        name = path if path.endswith(INPUT) else _module_path(path)

        def keep(module: nn.Module, output: Any) -> None:
            if module is tapped:  # a copy of the model (a moving average) has copies of the hooks
                self._kept[path] = {
                    key: self._kept_of(key, each, training=module.training) if f"{key}:".startswith(f"{path}:") else None
                    for key, each in _tensors(name, output)
                }

        return keep

    def _kept_of(self, name: str, output: Tensor, *, training: bool) -> _Kept:
        """Returns a copy until it is known that the model does not change the output in place; always where there are no versions."""
        if torch.compiler.is_compiling() or output.is_inference():
            return _Kept(output.clone())
        value = output if (name, training) in self._unchanged else output.clone()
        return _Kept(value, output, output._version, training)

    def _learn_whether_changed(self, name: str, kept: _Kept) -> None:
        if kept.original is None:
            return
        if kept.original._version == kept.version:
            self._unchanged.add((name, kept.training))
        elif kept.value is kept.original:
            raise RuntimeError(f"the model has changed {name!r} in place, which it did not in earlier forwards; tap the module behind it")


def _modules_by_path(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the modules of `model` by their paths, as they are and with the names of wrappers left out; of two the outer one."""
    bare = model
    while list(bare._modules) in (["module"], ["_orig_mod"]):  # DDP, AveragedModel, torch.compile
        (inner,) = bare.children()
        bare = inner
    modules = dict(bare.named_modules(remove_duplicate=False))
    plain: dict[str, nn.Module] = {}
    for path, module in modules.items():
        plain.setdefault(".".join(part for part in path.split(".") if part not in _WRAPPERS), module)
    return {**dict(model.named_modules(remove_duplicate=False)), **modules, **plain}


def _module_path(path: str) -> str:
    return path.partition(":")[0]


def _tensors(name: str, output: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a module's output, those within tuples and mappings as `name:KEY`."""
    if isinstance(output, Tensor):
        yield name, output
    elif isinstance(output, Mapping):
        for key, each in output.items():
            yield from _tensors(f"{name}:{key}", each)
    elif isinstance(output, (tuple, list)):
        for index, each in enumerate(output):
            yield from _tensors(f"{name}:{index}", each)
