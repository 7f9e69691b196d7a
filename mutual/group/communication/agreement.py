"""agreed: what a part of the processes may fail at ends all of them alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from mutual.group.communication.communicator import Communicator
from mutual.recipe import Fault, InputError, RecipeError

_T = TypeVar("_T")


def all_ranks_or_raise(comm: Communicator, make: Callable[[], _T]) -> list[_T]:
    """Returns what `make` gave on every process, by rank, as JSON values; every process must call it.

    Where it fails on some, all raise the error of the first of these: otherwise the rest would wait for it in their next collective.

    Raises:
        InputError: `make` raised it, here or elsewhere; a RecipeError stays one.
        OSError: likewise, with its number and path.
    """
    made, error = None, None
    try:
        made = make()
    except (InputError, OSError) as raised:
        error = raised
    answers = comm.all_gather_json([made, None if error is None else _described(error)])
    for rank, (_, fault) in enumerate(answers):
        if fault is not None:
            if rank == comm.rank and error is not None:
                raise error
            raise _restored(fault) from error
    return [answer for answer, _ in answers]


def _described(error: InputError | OSError) -> dict[str, Any]:
    """Returns what another process needs to raise the same, as a JSON value."""
    if isinstance(error, OSError):
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else None
        return {"kind": "os", "number": error.errno, "message": str(error) if error.errno is None else error.strerror, "path": path}
    if isinstance(error, RecipeError):
        faults = [[fault.path, fault.message, fault.source] for fault in error.faults]
        return {"kind": "recipe", "faults": faults, "source": error.source}
    return {"kind": "input", "message": str(error)}


def _restored(fault: dict[str, Any]) -> InputError | OSError:
    if fault["kind"] == "os":
        if fault["number"] is None:
            return OSError(fault["message"])
        return OSError(fault["number"], fault["message"], fault["path"])  # Python makes it the subclass of this number
    if fault["kind"] == "recipe":
        return RecipeError([Fault(*each) for each in fault["faults"]], source=fault["source"])
    return InputError(fault["message"])
