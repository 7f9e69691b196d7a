"""Markdown: tables and code, and text of anybody's in which nothing is read as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mutual.recipe import printable


def escape(text: object) -> str:
    r"""Returns `text` in one line of Markdown, with nothing in it that Markdown or HTML would read as markup.

    Example:
        >>> escape("a|b <i>*\n---")
        'a\\|b \\<i\\>\\*\\\\n---'
    """
    return re.sub(r"([\\`*_{}\[\]<>()#|~!&$^])", r"\\\1", printable(text))


def section(title: str, body: str) -> str:
    """Returns a section with its heading."""
    return f"## {title}\n\n{body}"


def code_block(text: str) -> str:
    """Returns a program in Python as a block."""
    return f"```python\n{text.rstrip()}\n```"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; the cells are Markdown, in one line."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
