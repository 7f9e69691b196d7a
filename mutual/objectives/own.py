"""Losses of the user's own, `package.module:name`: what `loss` declares of one, or its signature says, as a LossSpec.

[README.md](README.md) says what such a loss is called with, and what it may return.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

from torch import Tensor, nn

from mutual.objectives.precision import in_full_precision
from mutual.objectives.predictions import Predictions
from mutual.objectives.shapes import Check, any_shapes, equal_logits, feature_maps
from mutual.objectives.spec import Input, LossSpec
from mutual.recipe import LossTraits, call_users, did_you_mean, import_users, names_parameter

_INPUTS: tuple[Input, ...] = get_args(Input)
_CHECKS: dict[str, Check] = {"any": any_shapes, "logits": equal_logits, "maps": feature_maps}
_ATTRIBUTE = "__mutual_loss__"
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Declaration:
    """What `loss` was told."""

    reads: tuple[Input, ...] | None = None
    per_image: bool | None = None
    is_stochastic: bool = False
    on_logits: bool = False
    multi_output: bool = False
    label_type: Literal["any", "single", "multi"] = "any"
    outputs: Literal["any", "logits", "maps"] = "any"


def loss(
    *,
    reads: Sequence[str] | None = None,
    per_image: bool | None = None,
    is_stochastic: bool = False,
    on_logits: bool = False,
    multi_output: bool = False,
    label_type: Literal["any", "single", "multi"] = "any",
    outputs: Literal["any", "logits", "maps"] = "any",
) -> Callable[[_FunctionT], _FunctionT]:
    """Declares what a loss of your own is: a decorator of a function, or of a module class, that a recipe names `package.module:name`.

    It is not needed where the signature says all: parameters called `learner`, `source`, `labels`, `classes`, `mask`, `row_offset` and
    `num_rows` get what `LossSpec` says of `inputs`.

    Args:
        reads: what the first parameters get, in their order; by default what they are called.
        per_image: it returns a loss for each image, or else one value, the mean over the images; by default its result tells.
        is_stochastic: it draws random numbers, by torch's generators, which are then seeded for each edge and micro-batch; one that draws
            when it is tried is found out.
        on_logits: a function of logits `[..., B, C]` of any number of pairs at once, which broadcasts; edges are then computed together.
        multi_output: it reads all outputs that `at` lists together, as lists.
        label_type: the data that it is for: `single`: one class an image, `multi`: several labels.
        outputs: what it compares: `logits`, feature `maps` `[B, C, H, W]`, or `any`.

    Raises:
        ValueError: what is declared does not exist, or does not go together.

    Example:
        >>> @loss(on_logits=True, label_type="single")
        ... def margin(learner, source, *, power=2.0):
        ...     return (learner.softmax(dim=-1) - source.softmax(dim=-1)).abs().pow(power).sum(dim=-1)
        >>> margin(torch.zeros(2, 3), torch.zeros(2, 3))
        tensor([0., 0.])
    """
    _check_declared(reads, label_type=label_type, outputs=outputs, on_logits=on_logits, multi_output=multi_output)
    inputs = None if reads is None else cast("tuple[Input, ...]", tuple(reads))
    outputs = "logits" if on_logits else outputs
    declaration = _Declaration(inputs, per_image, is_stochastic, on_logits, multi_output, label_type, outputs)

    def declare(function: _FunctionT) -> _FunctionT:
        setattr(function, _ATTRIBUTE, declaration)
        return function

    return declare


def _check_declared(reads: Sequence[str] | None, *, label_type: str, outputs: str, on_logits: bool, multi_output: bool) -> None:
    for name in reads or ():
        if name not in _INPUTS:
            raise ValueError(f"@loss: {name!r} is nothing that a loss reads{did_you_mean(name, _INPUTS)}")
    for key, value, choices in (("label_type", label_type, ("any", "single", "multi")), ("outputs", outputs, tuple(_CHECKS))):
        if value not in choices:
            raise ValueError(f"@loss: {value!r} is no {key}{did_you_mean(value, choices)}")
    if on_logits and multi_output:
        raise ValueError("@loss: on_logits is for one output of each end, and multi_output for several; take one of the two away")


@dataclass(frozen=True)
class UsersLoss:
    """A loss of the user's own.

    Attributes:
        name: as the user wrote it.
        function: the function or module class itself.
        spec: what it reads.
        traits: what its section in a recipe cannot say.
    """

    name: str
    function: Callable[..., Any]
    spec: LossSpec
    traits: LossTraits

    def build_adapter(self, arguments: dict[str, Any], *, learner_shape: Any, source_shape: Any) -> nn.Module:
        """Returns the module that its class makes of the shapes, as far as it names them, and of its arguments.

        Raises:
            ValueError: it does not take them, fails, or makes no module.
        """
        shapes = {"learner_shape": learner_shape, "source_shape": source_shape}
        clash = next((key for key in shapes if key in arguments), None)
        if clash is not None:
            raise ValueError(f"{self.name}: {clash!r} is not for args; it is the shape of what the loss reads")
        named = {key: shape for key, shape in shapes.items() if names_parameter(self.function, key)}
        return _OwnAdapter(call_users(self.name, self.function, **named, **arguments))

    def check_arguments(self, arguments: dict[str, Any]) -> None:
        """Checks the arguments of a function.

        Raises:
            ValueError: it does not take one of them, or lacks one.
        """
        parameters = _parameters(self.name, self.function)[len(self.spec.inputs) :]
        names = {each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            for key in arguments:
                if key not in names:
                    raise ValueError(f"{self.name} takes no argument {key!r}{did_you_mean(key, names)}")
        for each in parameters:
            if each.name in names - arguments.keys() and each.default is each.empty:
                raise ValueError(f"{self.name} needs the argument {each.name!r}: write args: {{{each.name}: ...}}")


class _OwnAdapter(nn.Module):
    """A module of the user's own, which computes in float32 at least whatever autocast says."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    @in_full_precision
    def forward(self, *inputs: Any) -> Any:
        """Returns what the module does."""
        return self.module(*inputs)


def import_loss(name: str) -> UsersLoss:
    """Returns the loss that `package.module:name` names; imports its module.

    Raises:
        ValueError: there is none, or it is no function and no module class that reads a learner; one line says which.
    """
    function = import_users(name, kind="loss")
    if isinstance(function, nn.Module):
        raise ValueError(f"{name!r} is a module that is there already, whose weights no learner would have of its own; name its class")
    is_class = isinstance(function, type)
    if isinstance(function, type) and not issubclass(function, nn.Module):
        raise ValueError(f"{name!r} is a class, and no torch.nn.Module; write a function or a module class")
    declared: _Declaration = getattr(function, _ATTRIBUTE, _Declaration())
    inputs = _inputs(name, function, declared)
    if declared.on_logits and is_class:
        raise ValueError(f"{name!r}: on_logits is for functions; a module is called for one edge at a time")
    if declared.on_logits and "row_offset" in inputs:
        raise ValueError(f"{name!r}: on_logits computes pairs of one process together, and row_offset asks for the images of all; take one")
    spec = LossSpec(
        _on_tensors(function) if declared.on_logits else function,
        inputs,
        check=_CHECKS[declared.outputs],
        multi_output=declared.multi_output,
        on_logits=declared.on_logits,
        per_image=declared.per_image,
        is_stochastic=declared.is_stochastic,
    )
    label_type = "single" if "classes" in inputs and declared.label_type == "any" else declared.label_type
    return UsersLoss(name, function, spec, LossTraits(spec.reads_source, label_type, declared.outputs))


def _inputs(name: str, function: Callable[..., Any], declared: _Declaration) -> tuple[Input, ...]:
    """Returns what the first parameters of a function, or of a class's `forward`, are to get."""
    called = function.forward if isinstance(function, type) and issubclass(function, nn.Module) else function
    parameters = _parameters(name, called)
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if declared.reads is not None:
        if len(positional) < len(declared.reads) and not any(each.kind is each.VAR_POSITIONAL for each in parameters):
            raise ValueError(f"{name!r} is declared to read {', '.join(declared.reads)}, and takes {len(positional)} of them")
        inputs = declared.reads
    else:
        named = [next((key for key in _INPUTS if key == _without_shape(each.name)), None) for each in parameters]
        num_leading = next((index for index, key in enumerate(named) if key is None or parameters[index] not in positional), len(named))
        inputs = tuple(key for key in named[:num_leading] if key is not None)
        late = [key for key in named[num_leading:] if key is not None]
        if late and "learner" in (*inputs, *late):
            raise ValueError(f"{name!r}: what a loss reads comes first, before its arguments, and {late[0]!r} does not")
    if "learner" not in inputs:
        raise ValueError(
            f"{name!r} has no `learner` among its first parameters; they are called as what they are to get ({', '.join(_INPUTS)}), "
            "or @mutual.loss(reads=...) says it"
        )
    if "num_rows" in inputs and "row_offset" not in inputs:
        raise ValueError(f"{name!r} reads num_rows without row_offset, where those rows begin")
    return inputs


def _parameters(name: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Returns the parameters, `self` of a class's forward left out."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} has no signature; wrap it in a function") from error
    return parameters[1:] if parameters and parameters[0].name == "self" else parameters


def _without_shape(name: str) -> str:
    """Returns a parameter's name without the suffix that says its shape (`learner_BC`)."""
    return re.sub(r"_[A-Z0-9]+$", "", name)


def _on_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` that takes predictions for its logits."""

    @functools.wraps(function)
    def compute(*inputs: Tensor | Predictions | None, **arguments: Any) -> Any:
        return function(*(each.logits if isinstance(each, Predictions) else each for each in inputs), **arguments)

    return compute
