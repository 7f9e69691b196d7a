"""The user's own factories, `package.module:factory`: which may be named, how they are imported, and how any factory is called."""

from __future__ import annotations

import functools
import importlib
import inspect
import reprlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from mutual.recipe import did_you_mean, first_line

Factory = Callable[..., nn.Module]

_LIBRARIES = frozenset(
    [
        "PIL",
        "accelerate",
        "fsspec",
        "huggingface_hub",
        "mutual",
        "numpy",
        "pip",
        "pkg_resources",
        "pydantic",
        "pydantic_core",
        "safetensors",
        "scipy",
        "setuptools",
        "tensorboard",
        "timm",
        "torch",
        "torchaudio",
        "torchmetrics",
        "torchvision",
        "tqdm",
        "yaml",
    ]
)
"""What `mutual` runs on: full of callables that load or run what they are given (`torch.hub:load`)."""


def is_factory_name(name: str) -> bool:
    """Returns True where `name` has the form `package.module:factory`."""
    module, separator, attribute = name.partition(":")
    return bool(separator) and all(part.isidentifier() for part in [*module.split("."), attribute])


def users_factory(name: str) -> Factory:
    """Returns the callable that `package.module:factory` names; imports its module, from the current folder too.

    Only call it with a name that the user has given for it: in a recipe to train, on the command line, in Python.

    Raises:
        ValueError: no name of this form, a module of Python or of a library, or one that cannot be imported; or the callable is
            not defined in that package; one line says which.
    """
    module_name, _, attribute = name.partition(":")
    package = module_name.partition(".")[0]
    if not is_factory_name(name):
        raise ValueError(f"{name!r} names no factory; write package.module:factory")
    if package in sys.stdlib_module_names or package in _LIBRARIES:
        kind = "Python's standard library" if package in sys.stdlib_module_names else f"{package}"
        raise ValueError(f"{name!r} is of {kind}, not code of yours; write a function of your own, in a module with another name")
    module = _import(name, module_name)
    factory = vars(module).get(attribute)
    if not callable(factory):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{name!r}: {module_name} has no factory {attribute!r}{did_you_mean(attribute, functions)}")
    home = _defining_module(factory)
    if home.partition(".")[0] != package:
        raise ValueError(f"{name!r} is defined in {home}, not in {package}; name the module that defines it, or wrap it in a function")
    chosen: Factory = factory
    return chosen


def build(name: str, factory: Factory, /, **arguments: Any) -> nn.Module:
    """Returns the model that `factory` makes of `arguments`.

    Raises:
        ValueError: it does not take them, fails, or gives something that cannot be trained, saved or scored; one line says which.
    """
    _check_arguments(name, factory, arguments)
    try:
        model = factory(**arguments)
    except (Exception, SystemExit) as error:  # code of the user's or of a library, which may raise anything
        raise ValueError(f"{name} cannot be built with {_shown(arguments)}: {_describe_error(error, factory)}") from error
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


def _import(name: str, module_name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # `accelerate launch -m` does not put it there for every launcher
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{name!r}: cannot import {module_name!r} ({error}); run from the folder that holds it, or install it"
            ) from error
        raise ValueError(f"{name!r}: cannot import {module_name!r}: {_describe_error(error, None)}") from error
    except (Exception, SystemExit) as error:  # the user's module, which may raise anything
        raise ValueError(f"{name!r}: cannot import {module_name!r}: {_describe_error(error, None)}") from error


def _defining_module(factory: Any) -> str:
    """Returns the module in which a callable is defined; of an object that can be called, its class."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    if not (inspect.isroutine(factory) or inspect.isclass(factory)):
        factory = type(factory)
    return str(getattr(factory, "__module__", None) or "builtins")


def names_parameter(factory: Factory, argument: str) -> bool:
    """Returns True where the signature of `factory` names `argument`; one that takes any keyword does not."""
    try:
        return argument in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # it has no signature
        return False


def _check_arguments(name: str, factory: Factory, arguments: dict[str, Any]) -> None:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a callable without a signature says itself what it does not take
        return
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for argument in arguments:
            if argument not in parameters:
                raise ValueError(f"{name} takes no argument {argument!r}{did_you_mean(argument, parameters)}")


def _describe_error(error: BaseException, factory: Factory | None) -> str:
    """Returns what was raised, and in user's code where."""
    reason = first_line(error)
    kind = "" if isinstance(error, ValueError | AssertionError) and reason != type(error).__name__ else type(error).__name__
    description = ": ".join(dict.fromkeys(part for part in (kind, reason) if part))
    if isinstance(error, SyntaxError):
        return description
    package = None if factory is None else _defining_module(factory).partition(".")[0]
    if package in _LIBRARIES:
        return description
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _is_own(frame.f_globals.get("__name__", ""), package)
    ]
    return f"{description} ({frames[-1][0]}:{frames[-1][1]})" if frames else description


def _is_own(module: str, package: str | None) -> bool:
    top = module.partition(".")[0]
    return top == package if package is not None else top not in _LIBRARIES and top not in sys.stdlib_module_names


def _shown(arguments: dict[str, Any]) -> str:
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 80
    return " ".join(", ".join(f"{key}={brief.repr(value)}" for key, value in arguments.items()).split("\n"))
