"""Whether there is a weights file to read; imports no torch, so that a wrong path is reported at once."""

from __future__ import annotations

import errno
import re
from pathlib import Path

_SHORTAGES = (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE)


def check_file(path: Path) -> None:
    """Raises a ValueError where `path` is no file that can be read; where there is nothing it lists the files beside it.

    An OSError that says nothing of the file goes up as it is: safetensors would call it a file that does not exist.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                if not file.read(1):
                    raise ValueError(f"{path} is empty")
            return
        if path.exists():
            raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}; give a weights file")
        near = sorted(other.name for other in path.parent.glob(f"*{path.suffix}"))[:5] if path.parent.is_dir() else []
    except OSError as error:
        if is_shortage(error, path):
            raise
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    raise ValueError(
        f"no weights file {path}" + (f"; the folder holds {', '.join(near)}" if near else "; train that peer first, or give another path")
    )


def is_shortage(error: BaseException, path: Path) -> bool:
    """Returns True for what a reader of `path` raises where the disk does not answer or the machine lacks what the file rightly needs."""
    if isinstance(error, OSError):
        return error.errno in _SHORTAGES
    wanted = (
        re.search(r"can't allocate memory.*tried to allocate (\d+)", str(error), re.DOTALL) if isinstance(error, RuntimeError) else None
    )
    return wanted is not None and int(wanted[1]) <= path.stat().st_size  # a damaged file may ask for more than it holds
