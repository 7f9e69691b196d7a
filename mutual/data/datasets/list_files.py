"""Text files with a line for each image or class."""

from __future__ import annotations

from pathlib import Path

from mutual.data.datasets.presence import check_list


def lines_of(file: Path) -> list[tuple[int, str]]:
    """Returns the lines that are not empty, with their numbers from 1 on."""
    check_list(file)
    content = file.read_bytes()
    if b"\0" in content:
        raise ValueError(f"{file} is no text file: it holds zero bytes")
    lines = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")  # names of files need not be UTF-8
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
