"""Frozen parts of a trained model: parameters that do not train, in modules that stay in eval mode whatever calls `train()`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from torch import nn


class _StayInEvalMode:
    """Stands in the place of a module's `train`; a copy of the module gets a copy of its own."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *_mode: bool, **_named: bool) -> nn.Module:
        return nn.Module.train(self._module, False)


def freeze_parts(model: nn.Module, *, train_only: Sequence[str] = (), freeze: Sequence[str] = ()) -> None:
    """Freezes the modules and parameters of `model` at the paths `freeze` and what they contain, or all but those at `train_only`.

    Parameters that are frozen require no gradient. Modules that are frozen stay in eval mode: BatchNorm statistics do not move, dropout
    and stochastic depth are off. With `train_only`, a module that contains one of these paths keeps a mode of its own.

    Raises:
        ValueError: there is no such module or parameter, the message lists the near ones; or nothing is left to train.
    """
    given = [*train_only, *freeze]
    if not given:
        return
    modules = {name: module for name, module in model.named_modules() if name}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for path in given:
        _check_path(path, [*modules, *parameters])

    def is_frozen(name: str) -> bool:
        return not _is_within(name, train_only) if train_only else _is_within(name, freeze)

    trained = {id(parameter) for name, parameter in parameters.items() if not is_frozen(name)}  # of several names one is enough
    for parameter in parameters.values():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError("no parameter is left to train; a peer that only teaches is frozen: true")
    for name, module in modules.items():
        if is_frozen(name) and not any(_is_within(path, [name]) for path in train_only):
            module.train = _StayInEvalMode(module)
            module.train()


def frozen_buffers(module: nn.Module) -> set[int]:
    """Returns the ids of the buffers of the parts of `module` that `freeze_parts` has frozen."""
    return {id(buffer) for part in module.modules() if isinstance(part.train, _StayInEvalMode) for buffer in part.buffers()}


def _is_within(name: str, paths: Iterable[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _check_path(path: str, known: Sequence[str]) -> None:
    if path not in known:
        near = difflib.get_close_matches(path, known, n=6) or [name for name in known if "." not in name]
        raise ValueError(f"no module {path!r}; near: {', '.join(near)}")
