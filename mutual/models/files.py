"""Where weights lie, and whether there is a file to read; imports no torch, so that a wrong path is reported at once."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from pathlib import Path
from typing import IO

_SHORTAGES = (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE)
_BEST = Path("best", "best.json")
"""In a run folder: names the best peer, and has the digests of the weights files; `engine.storage` writes it."""


def weights_path(path: str | Path) -> Path:
    """Returns the weights file that `path` stands for: itself or, of a run folder, the best weights of its best peer.

    Raises:
        ValueError: the run has no best weights yet, or they or their record are damaged.
    """
    path = Path(path)
    try:
        is_run = (path / _BEST).is_file() or (path / "recipe.yaml").is_file()
    except OSError as error:
        if is_shortage(error, path):
            raise
        return path  # who reads it says what is wrong
    if not is_run:
        return path
    try:
        record = json.loads((path / _BEST).read_bytes())
        peer, digests = record["peer"], record["sha256"]
        known = digests.get(f"best/{peer}", [])
        if not isinstance(known, list):
            raise TypeError("no list of digests")
    except FileNotFoundError as error:
        raise ValueError(f"{path} has no best weights yet: no epoch has been evaluated; wait, or give a file of its last/") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, IsADirectoryError) as error:
        raise ValueError(f"{path / _BEST} is damaged, or of another version") from error
    if not (isinstance(peer, str) and peer.isidentifier()):
        raise ValueError(f"{path} has no best weights yet: no epoch has been evaluated since they were lost or the run began")
    file = path / "best" / f"{peer}.safetensors"
    check_file(file)
    with file.open("rb") as stream:
        digest = _sha256(stream)
    if digest not in known:
        raise ValueError(f"{file} is damaged: its checksum is not the one in best.json; bring it back, or train again")
    return file


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
            raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}; give a weights file, or the folder of a run")
        near = sorted(other.name for other in path.parent.glob(f"*{path.suffix}"))[:5] if path.parent.is_dir() else []
    except OSError as error:
        if is_shortage(error, path):
            raise
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    raise ValueError(
        f"no weights file {path}" + (f"; the folder holds {', '.join(near)}" if near else "; train that peer first, or give another path")
    )


def _sha256(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def is_shortage(error: BaseException, path: Path) -> bool:
    """Returns True for what a reader of `path` raises where the disk does not answer or the machine lacks what the file rightly needs."""
    if isinstance(error, OSError):
        return error.errno in _SHORTAGES
    wanted = (
        re.search(r"can't allocate memory.*tried to allocate (\d+)", str(error), re.DOTALL) if isinstance(error, RuntimeError) else None
    )
    return wanted is not None and int(wanted[1]) <= path.stat().st_size  # a damaged file may ask for more than it holds
