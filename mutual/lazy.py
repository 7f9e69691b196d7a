"""Packages whose names are imported when they are first used: torch takes seconds, and not every command needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, homes: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the `__getattr__` and the `__dir__` (PEP 562) of a package.

    For type checkers and linters the package imports the same names under `TYPE_CHECKING`. No name may be a submodule's too: whoever
    imported that submodule first would get it in the name's place.

    Args:
        package: its `__name__`.
        homes: by module the names that are imported from it.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def get_attribute(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        module = sys.modules[package]
        return sorted({*vars(module), *module.__all__})

    return get_attribute, list_names
