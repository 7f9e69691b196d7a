"""Optimizers of the user's own: how they are built, and what a training and its checkpoints ask of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mutual.data import seeded_generators
from mutual.recipe import call_users, derive_seed, describe_error, import_users, names_parameter

Groups = list[dict[str, Any]]
_PLAIN = (bool, int, float, str, type(None))
_REMEDY = "keep to tensors, numbers, text, lists and mappings"


class UsersOptimizer:
    """What builds and checks the optimizers that `package.module:name` makes.

    Args:
        name: the user's own word.
        weight_decay: the recipe's; handed to a callable whose signature names it, and in the groups of parameters to all.

    Raises:
        ValueError: there is no such callable.
    """

    def __init__(self, name: str, *, weight_decay: float) -> None:
        self.name = name
        self._function = import_users(name, kind="optimizer")
        self._weight_decay = weight_decay

    def build(self, groups: Groups, arguments: Mapping[str, Any]) -> torch.optim.Optimizer:
        """Returns the optimizer of `groups`.

        Raises:
            ValueError: it takes no such arguments, fails, is no optimizer, or leaves parameters or settings out.
        """
        names_decay = "weight_decay" not in arguments and names_parameter(self._function, "weight_decay")
        given = {**arguments, "weight_decay": self._weight_decay} if names_decay else arguments
        optimizer = call_users(self.name, partial(self._function, groups), **given)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"{self.name} gives {type(optimizer).__name__}, no torch.optim.Optimizer")
        wanted = {id(parameter) for group in groups for parameter in group["params"]}
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if held != wanted:
            raise ValueError(f"{self.name} holds {len(held & wanted)} of the {len(wanted)} parameters that it was given; it must hold all")
        if not all("lr" in group for group in optimizer.param_groups):
            raise ValueError(f"{self.name}: its groups have no 'lr', which the schedule sets; give it to the constructor as a default")
        if self._weight_decay and not names_decay and "weight_decay" not in {*optimizer.defaults, *arguments}:
            raise ValueError(f"{self.name} knows no weight_decay; set weight_decay to 0")
        return optimizer

    def try_out(self, optimizer: torch.optim.Optimizer, rebuild: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]) -> None:
        """Steps an optimizer of small parameters, saves it, and sees that one that is restored makes the same steps.

        Raises:
            ValueError: it cannot step, or a checkpoint would lose a part of its state.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._step(optimizer, seed=0)
        state = self._call(optimizer.state_dict)
        for path, value in _unsaved(state, ""):
            raise ValueError(f"{self.name}: its state{path} is {_kind(value)}, which no checkpoint can hold; {_REMEDY}")
        saved = io.BytesIO()
        torch.save(state, saved)
        copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
        restored = rebuild(copies)
        self._call(restored.load_state_dict, torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
        for each in (optimizer, restored):
            self._step(each, seed=1)
        if not (_is_equal(parameters, copies) and _is_equal(optimizer.state_dict(), restored.state_dict())):
            raise ValueError(
                f"{self.name}: restored from a checkpoint, it steps otherwise; keep what it needs in `self.state` and the groups of "
                "parameters, and draw random numbers from torch's, NumPy's or Python's own generators"
            )

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # the user's code, which may raise anything
            raise ValueError(f"{self.name}: {describe_error(error, self._function)}") from error

    def _step(self, optimizer: torch.optim.Optimizer, *, seed: int) -> None:
        for index in range(2):
            with seeded_step(derive_seed(seed, index), optimizer):
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        parameter.grad = torch.randn_like(parameter)
                self._call(optimizer.step)


@contextmanager
def seeded_step(seed: int, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Context in which a step draws by `seed`, whatever it draws from; on a GPU, the generator there goes on from it."""
    with seeded_generators(seed):
        for device in {parameter.device for group in optimizer.param_groups for parameter in group["params"]}:
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)  # the next forward seeds it anew
        yield


def _unsaved(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Yields what in an optimizer's state a checkpoint cannot hold, with where it is."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _unsaved(item, f"{path}[{key!r}]") if type(key) in _PLAIN else [(path, key)]
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):  # type: ignore[arg-type]
            yield from _unsaved(item, f"{path}[{index}]")
    elif not (type(value) in _PLAIN or (type(value) in (Tensor, nn.Parameter) and _is_plain(value))):
        yield path, value


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return bool(one == other)


def _is_plain(tensor: Any) -> bool:
    return tensor.layout is torch.strided and not (tensor.requires_grad and type(tensor) is Tensor)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" + (" with a gradient, or sparse" if isinstance(value, Tensor) else "")
