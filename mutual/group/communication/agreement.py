"""agreed: what a part of the processes may fail at ends all of them alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mutual.group.communication.communicator import Communicator
from mutual.group.communication.errors import describe_error, restore_error
from mutual.recipe import InputError

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
    answers = comm.all_gather_json([made, None if error is None else describe_error(error)])
    for rank, (_, fault) in enumerate(answers):
        if fault is not None:
            if rank == comm.rank and error is not None:
                raise error
            raise restore_error(fault) from error
    return [answer for answer, _ in answers]
