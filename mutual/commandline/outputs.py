"""check_free: no file is replaced that the user has not said to replace."""

from __future__ import annotations

import os
from pathlib import Path

from mutual.recipe import InputError, printable


def check_free(path: Path, *, overwrite: bool, option: str) -> None:
    """Refuses to write where something is that is not to be replaced.

    Args:
        path: the file that is to be written.
        overwrite: a file there is to be replaced; nothing else is.
        option: what the user may give instead, as the line names it: "another --output".

    Raises:
        InputError: something is there.
    """
    if not os.path.lexists(path) or (overwrite and path.is_file()):
        return
    remedy = f"and no file; give {option}" if overwrite else f"give {option}, or --overwrite"
    raise InputError(f"{printable(path)} is there already{',' if overwrite else ';'} {remedy}")
