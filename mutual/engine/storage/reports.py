"""Reports: HTML files of ours, which are told from others by a mark in their head."""

from __future__ import annotations

import os
from pathlib import Path

from mutual.engine.storage.files import write_file
from mutual.recipe import InputError, printable

REPORT = "report.html"
"""In the folder that it is of."""
REPORT_MARK = b'<meta name="generator" content="mutual.report">'
"""In the head of a report; no other file is replaced or removed."""
_HEAD = 2_048  # bytes in which the mark stands


def is_report(path: Path) -> bool:
    """Returns whether `path` is a report that we wrote; a link is none, wherever it leads."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return REPORT_MARK in file.read(_HEAD)


def write_report(path: Path, text: str) -> None:
    """Writes a report whole.

    Raises:
        InputError: something else is there.
    """
    check_report_path(path)
    write_file(path, text.encode())


def check_report_path(path: Path) -> None:
    """Refuses to write where something else than a report of ours is.

    Raises:
        InputError: it is.
    """
    if os.path.lexists(path) and not is_report(path):
        kind = "a folder" if path.is_dir() else "no report that mutual.report wrote, so that it is left alone"
        raise InputError(f"{printable(path)} is {kind}; give another file, --output FILE.html")
