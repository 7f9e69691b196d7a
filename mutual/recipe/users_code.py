"""Code of the user's own, `package.module:name`: which may be named, how it is imported and called, and how its errors are told.

The name must be the user's own word, in a recipe to train, on the command line or in Python: a file that came with data or weights never
chooses code.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mutual.recipe.errors import did_you_mean
from mutual.recipe.text import first_line

_LIBRARIES = frozenset(
    [
        "PIL",
        "accelerate",
        "datasets",
        "fsspec",
        "huggingface_hub",
        "mutual",
        "numpy",
        "pip",
        "pkg_resources",
        "pyarrow",
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
USERS_NAME = r"^[\w.]+:\w+$"
"""Pattern of such a name, for JSON schemas; `is_users_name` decides."""


def is_users_name(name: str) -> bool:
    """Returns True where `name` has the form `package.module:name`."""
    module, separator, attribute = name.partition(":")
    return bool(separator) and all(part.isidentifier() for part in [*module.split("."), attribute])


def users_names(value: object) -> Iterator[str]:
    """Yields the names of code of the user's own in what a recipe says, wherever they stand; a file name with a colon counts as well.

    Example:
        >>> list(users_names({"optimizer": {"name": "my_training:Lion"}, "peers": [{"model": "small_cnn"}]}))
        ['my_training:Lion']
    """
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for entry in value:
            yield from users_names(entry)
    elif isinstance(value, str) and is_users_name(value):
        yield value


def import_users(name: str, *, kind: str) -> Callable[..., Any]:
    """Returns the callable that `package.module:name` names; imports its module, from the current folder too.

    Args:
        name: as the user wrote it.
        kind: what it is to be, for messages: `factory`, `loss`, `dataset`.

    Raises:
        ValueError: no name of this form, a module of Python or of a library, or one that cannot be imported; or the callable is
            not defined in that package; one line says which.
    """
    module_name, _, attribute = name.partition(":")
    package = module_name.partition(".")[0]
    if not is_users_name(name):
        raise ValueError(f"{name!r} names no {kind}; write package.module:{kind}")
    if package in sys.stdlib_module_names or package in _LIBRARIES:
        owner = "Python's standard library" if package in sys.stdlib_module_names else package
        raise ValueError(f"{name!r} is of {owner}, not code of yours; write a function of your own, in a module with another name")
    module = _import(name, module_name)
    found = vars(module).get(attribute)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{name!r}: {module_name} has no {kind} {attribute!r}{did_you_mean(attribute, functions)}")
    home = _defining_module(found)
    if home.partition(".")[0] != package:
        raise ValueError(f"{name!r} is defined in {home}, not in {package}; name the module that defines it, or wrap it in a function")
    chosen: Callable[..., Any] = found
    return chosen


def call_users(name: str, function: Callable[..., Any], /, **arguments: Any) -> Any:
    """Returns what the callable called `name` gives for `arguments`.

    Raises:
        ValueError: it does not take them, or fails; one line says which, and of the user's own code where.
    """
    _check_arguments(name, function, arguments)
    try:
        return function(**arguments)
    except (Exception, SystemExit) as error:  # code of the user's or of a library, which may raise anything
        given = f" with {_shown(arguments)}" if arguments else ""
        raise ValueError(f"{name} cannot be built{given}: {describe_error(error, function)}") from error


def names_parameter(function: Callable[..., Any], argument: str) -> bool:
    """Returns True where the signature of `function` names `argument`; one that takes any keyword does not."""
    try:
        return argument in inspect.signature(function).parameters
    except (TypeError, ValueError):  # it has no signature
        return False


def describe_error(error: BaseException, function: Callable[..., Any] | None) -> str:
    """Returns what was raised, and in user's code where."""
    reason = first_line(error)
    kind = "" if isinstance(error, ValueError | AssertionError) and reason != type(error).__name__ else type(error).__name__
    description = ": ".join(dict.fromkeys(part for part in (kind, reason) if part))
    if isinstance(error, SyntaxError):
        return description
    package = None if function is None else _defining_module(function).partition(".")[0]
    if package in _LIBRARIES:
        return description
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _is_own(frame.f_globals.get("__name__", ""), package)
    ]
    return f"{description} ({frames[-1][0]}:{frames[-1][1]})" if frames else description


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
        raise ValueError(f"{name!r}: cannot import {module_name!r}: {describe_error(error, None)}") from error
    except (Exception, SystemExit) as error:  # the user's module, which may raise anything
        raise ValueError(f"{name!r}: cannot import {module_name!r}: {describe_error(error, None)}") from error


def _defining_module(function: Any) -> str:
    """Returns the module in which a callable is defined; of an object that can be called, its class."""
    while isinstance(function, functools.partial):
        function = function.func
    if not (inspect.isroutine(function) or inspect.isclass(function)):
        function = type(function)
    return str(getattr(function, "__module__", None) or "builtins")


def _check_arguments(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable without a signature says itself what it does not take
        return
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for argument in arguments:
            if argument not in parameters:
                raise ValueError(f"{name} takes no argument {argument!r}{did_you_mean(argument, parameters)}")


def _is_own(module: str, package: str | None) -> bool:
    top = module.partition(".")[0]
    return top == package if package is not None else top not in _LIBRARIES and top not in sys.stdlib_module_names


def _shown(arguments: dict[str, Any]) -> str:
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 80
    return " ".join(", ".join(f"{key}={brief.repr(value)}" for key, value in arguments.items()).split("\n"))
