"""Printing: names of files are bytes, and a line that holds one must not fail because of it."""

from __future__ import annotations

import io
from typing import TextIO


def allow_any_name(*streams: TextIO) -> None:
    """Lets names of files that are not UTF-8 be printed: as their bytes, or where the terminal's encoding is another one, as escapes."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower().replace("-", "") == "utf8" else "backslashreplace")
