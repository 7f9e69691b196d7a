"""Tables as text, markdown and LaTeX: no name can break a format."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import TextWrapper

from mutual.recipe import printable

WIDTH = 118
_NAME_WIDTH, _SHORTEST_NAME_WIDTH, _TEXT_WIDTH = 29, 16, 20
"""Names, in the first column, and verdicts that are longer go on in the next line of a text table; names sooner where the row is full."""
_GAP = "  "


@dataclass(frozen=True)
class Column:
    """A column's heading, and whether its cells are numbers, which stand at the right."""

    head: str
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """Cells as texts; the first columns' are names."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


def wrapped(text: str, *, width: int = WIDTH, bullet: str = "") -> str:
    """Returns `text` in lines of at most `width` characters, of which those below the first are indented as the bullet is wide."""
    wrapper = TextWrapper(width=width, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_on_hyphens=False)
    return wrapper.fill(printable(text))


def text_table(table: Table) -> str:
    """Returns the table for a terminal; names that the row above has, too, are not repeated."""
    heads = [[column.head] for column in table.columns]
    shown = _without_repeated_names(table.rows)
    others = [[_lines(cell, column) for cell, column in zip(row[1:], table.columns[1:], strict=True)] for row in shown]
    widths = _widths([heads[1:], *others])
    left = WIDTH - sum(len(_GAP) + width for width in widths)
    name_width = min(_NAME_WIDTH, max(_SHORTEST_NAME_WIDTH, left))
    rows = [[_lines(row[0], table.columns[0], name_width), *other] for row, other in zip(shown, others, strict=True)]
    widths = _widths([heads, *rows])
    lines = [_line(heads, widths, table.columns, 0), _GAP.join("-" * width for width in widths)]
    for row in rows:
        lines += [_line(row, widths, table.columns, index) for index in range(max(map(len, row)))]
    return "\n".join([wrapped(table.caption), *lines])


def _without_repeated_names(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns the rows, with an empty cell in place of a name, or two, that the row above begins with, too."""
    shown = []
    for above, row in zip([[], *rows], rows, strict=False):
        num_equal = next(num for num in (2, 1, 0) if above[:num] == row[:num])
        shown.append([*[""] * num_equal, *row[num_equal:]])
    return shown


def _widths(rows: Sequence[Sequence[Sequence[str]]]) -> list[int]:
    """Returns the width of each column of rows of cells of lines."""
    return [max(_width(line) for cell in column for line in cell) for column in zip(*rows, strict=True)]


def _lines(cell: str, column: Column, width: int = _TEXT_WIDTH) -> list[str]:
    if column.is_number:
        return [cell]
    return TextWrapper(width=width, break_on_hyphens=False).wrap(printable(cell)) or [""]


def _line(cells: Sequence[Sequence[str]], widths: Sequence[int], columns: Sequence[Column], index: int) -> str:
    texts = []
    for lines, width, column in zip(cells, widths, columns, strict=True):
        text = lines[index] if index < len(lines) else ""
        padding = " " * (width - _width(text))
        texts.append(padding + text if column.is_number else text + padding)
    return _GAP.join(texts).rstrip()


def _width(text: str) -> int:
    """Returns how many columns of a terminal `text` takes: two for a wide character, none for one that is put upon another."""
    return sum(0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def markdown_table(table: Table) -> str:
    """Returns the table in GitHub's markdown."""
    heads = [markdown_text(column.head) for column in table.columns]
    rules = ["---:" if column.is_number else "---" for column in table.columns]
    rows = [
        [cell if column.is_number else markdown_text(cell) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]
    return "\n".join([f"{markdown_text(table.caption)}:", "", *lines])


def markdown_text(text: str) -> str:
    """Returns `text` in one line of markdown, whatever is in it."""
    escaped = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", escaped)


def markdown_code(text: str) -> str:
    """Returns `text` in one line as code, between more backticks than it has in a row."""
    line = printable(text)
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{padding}{line}{padding}{ticks}"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # at the beginning of a row it, or a star, would belong to the line break before
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    **{each: f"\\{each}" for each in "#$%&_"},
}


def latex_text(text: str) -> str:
    """Returns `text` in one line of LaTeX, whatever is in it."""
    return "".join(_LATEX.get(each, each) for each in printable(text))


def latex_table(table: Table) -> str:
    """Returns the table as a tabular of booktabs, its caption as a comment."""
    rows = [
        [_latex_number(cell) if column.is_number else latex_text(cell) for cell, column in zip(row, table.columns, strict=True)]
        for row in _without_repeated_names(table.rows)
    ]
    lines = [
        f"% {printable(table.caption)}",
        f"\\begin{{tabular}}{{{''.join('r' if column.is_number else 'l' for column in table.columns)}}}",
    ]
    lines += ["\\toprule", _latex_row([latex_text(column.head) for column in table.columns]), "\\midrule", *map(_latex_row, rows)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _latex_number(cell: str) -> str:
    if not re.search(r"\d", cell):
        return "--"
    number = re.sub("x$", r"\\times", cell).replace("±", r"\pm")
    return f"${number}$"
