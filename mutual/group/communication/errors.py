"""Errors as JSON values, so that what one process fails at is raised on all of them."""

from __future__ import annotations

import os
from typing import Any

from mutual.recipe import Fault, InputError, RecipeError


class OtherRankError(RuntimeError):
    """Raised on the ranks that did not fail themselves, where the rank that did reports why."""


def describe_error(error: InputError | OSError) -> dict[str, Any]:
    """Returns `error` as a JSON value for `restore_error`."""
    if isinstance(error, OSError):
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else None
        return {"kind": "os", "number": error.errno, "message": str(error) if error.errno is None else error.strerror, "path": path}
    if isinstance(error, RecipeError):
        faults = [[fault.path, fault.message, fault.source] for fault in error.faults]
        return {"kind": "recipe", "faults": faults, "source": error.source}
    return {"kind": "input", "message": str(error)}


def restore_error(fault: dict[str, Any]) -> InputError | OSError:
    """Returns the error that `describe_error` described."""
    if fault["kind"] == "os":
        if fault["number"] is None:
            return OSError(fault["message"])
        return OSError(fault["number"], fault["message"], fault["path"])  # Python makes it the subclass of this number
    if fault["kind"] == "recipe":
        return RecipeError([Fault(*each) for each in fault["faults"]], source=fault["source"])
    return InputError(fault["message"])
