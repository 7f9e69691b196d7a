"""redact: texts without names of the user and the machine, as a diagnosis is pasted where others read it."""

from __future__ import annotations

import getpass
import os
import re
import socket
from pathlib import Path

from mutual.recipe import first_line, printable

_ADDRESS = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\[[0-9a-fA-F:.%]*:[0-9a-fA-F:.%]*:[^\]\s]*\]|\b(?:[0-9a-fA-F]{1,4}:){3,}[0-9a-fA-F:]+")
"""Addresses of IPv4, and of IPv6 with at least three colons."""
_SECRET = re.compile(r"(?<=://)[^/@\s]+@|\b(?:hf|ghp|gho|sk)[_-]\w{8,}", re.ASCII)
"""What stands before the host of a URL, and tokens that begin as those of the best known services do."""
_SHORTEST = 3
"""Letters of a name that is replaced: a shorter one would be found in other words."""


def redact(text: str) -> str:
    """Returns `text` in one line with `~` for the user's folder and words for names of the user and the machine, addresses and tokens.

    Example:
        >>> redact(f"{Path.home()}/runs: connect to 10.0.0.7:29500")
        '~/runs: connect to ADDRESS:29500'
    """
    home = str(Path.home())
    shown = re.sub(rf"{re.escape(home)}(?=/|\b|$)", "~", text) if len(home) > 1 else text
    for word, names in (("HOST", _host_names()), ("USER", _user_names())):
        for name in sorted(names, key=len, reverse=True):
            if len(name) >= _SHORTEST:
                shown = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", word, shown)
    return printable(_SECRET.sub("SECRET", _ADDRESS.sub("ADDRESS", shown)))


def redact_error(error: BaseException) -> str:
    """Returns the first line of what `error` says, without names; of a file only what was wrong."""
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror
    return redact(first_line(error))


def _host_names() -> set[str]:
    name = socket.gethostname()
    return {name, name.partition(".")[0]} - {"localhost"}


def _user_names() -> set[str]:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        name = ""
    return {name, os.environ.get("SUDO_USER", "")} - {"root", ""}
