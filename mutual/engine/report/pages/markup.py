"""Markup: HTML and SVG from calls; whatever is not Markup is text, and is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import PurePath
from urllib.parse import quote

from mutual.recipe import printable, printable_lines

_VOID = frozenset({"meta", "img", "br", "col"})
_MAX_TEXT = 2_000  # characters of a name or a message; a class may be called anything


class Markup(str):
    """HTML in which everything from elsewhere is escaped."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Returns an element.

    Args:
        tag: its name.
        children: Markup as it is, None as nothing, everything else as escaped text.
        attributes: by name, `_` for `-` and a `_` at the end left out (`class_`); None and False are left out, True has no value.

    Example:
        >>> element("p", "a < b", element("br"), class_="note")
        '<p class="note">a &lt; b<br></p>'
    """
    head = "".join(_attribute(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{tag}{head}>")
    return Markup(f"<{tag}{head}>{join(children)}</{tag}>")


def join(children: Iterable[object]) -> Markup:
    """Returns `children` one after the other."""
    return Markup("".join(map(_content, children)))


def name(text: object, *, max_length: int = 80) -> Markup:
    """Returns a name that others gave, cut to `max_length` with the whole of it as its title, and with a writing direction of its own."""
    shown = clip(text, max_length)
    return element("bdi", shown, title=None if shown == str(text) else text)


def code(text: object) -> Markup:
    """Returns a command line or the name of a file."""
    return element("code", text)


def lines(text: str) -> Markup:
    """Returns text of several lines, escaped, with its line breaks."""
    return Markup(html.escape(printable_lines(text), quote=False))


def scroll_box(child: Markup, *, label: str) -> Markup:
    """Returns a box in which `child` is scrolled where it is wider than the page, by keys, too."""
    return element("div", child, class_="scroll", role="region", tabindex="0", aria_label=label)


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str, texts: int = 1) -> Markup:
    """Returns a table in a box of its own; the first column names the rows.

    Args:
        heads: of the columns.
        rows: their cells; None is an empty one.
        caption: what the table is.
        texts: the number of columns from the left that are texts; the others are numbers, aligned to the right.
    """
    top = [element("th", head, scope="col", class_=None if index < texts else "number") for index, head in enumerate(heads)]
    body = []
    for first, *others in rows:
        cells = [element("td", cell, class_=None if index < texts else "number") for index, cell in enumerate(others, start=1)]
        body.append(element("tr", element("th", first, scope="row"), *cells))
    whole = element("table", element("caption", caption), element("thead", element("tr", *top)), element("tbody", *body))
    return scroll_box(whole, label=caption)


def command_box(text: str) -> Markup:
    """Returns command lines as they are typed; long ones are scrolled, for a line break in them would be another command."""
    return element("pre", lines(text), tabindex="0", role="region", aria_label="Command lines")


def folded(title: object, *children: object, is_open: bool = False) -> Markup:
    """Returns what is shown when its title is clicked."""
    return element("details", element("summary", title), *children, open=is_open)


def clip(text: object, length: int) -> str:
    """Returns `text` in one line of at most `length` characters.

    Example:
        >>> clip("sports car", 7)
        'sports…'
    """
    shown = printable(text, max_length=_MAX_TEXT)
    return shown if len(shown) <= length else f"{shown[: length - 1].rstrip()}…"


def short_names(names: Sequence[str], length: int) -> list[str]:
    """Returns names in one line of at most `length` characters each, by which they can be told apart as far as that goes.

    Where one is longer, the words that all begin with are left out; one that is still too long is cut in its middle.

    Example:
        >>> short_names(["digits_dml", "digits_dml-independent"], 16)
        ['dml', 'dml-independent']
        >>> short_names(["teacher-independent"], 10)
        ['teach…dent']
    """
    shown = [printable(name, max_length=_MAX_TEXT) for name in names]
    if len(shown) > 1 and any(len(name) > length for name in shown):
        words = [re.findall(r"[^ _/.:-]*[ _/.:-]", name) for name in shown]
        common = takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False))
        begin = sum(len(each[0]) for each in common)
        shown = [name[begin:] or name for name in shown]
    half = length // 2
    return [name if len(name) <= length else f"{name[:half]}…{name[half + 1 - length :]}" for name in shown]


def address(path: PurePath) -> str:
    """Returns a relative path as the address of a link: no scheme can be read into it."""
    return f"./{quote(path.as_posix(), errors='surrogateescape')}"


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = _number(value) if isinstance(value, float) else html.escape(printable(value, max_length=None if _is_ours(name) else _MAX_TEXT))
    return f' {name}="{text}"'


def _is_ours(name: str) -> bool:
    """Returns True for attributes that only our functions fill, with more text than a name has."""
    return name in ("d", "points", "src", "content")


def _content(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    return html.escape(printable(child, max_length=_MAX_TEXT), quote=False)


def _number(value: float) -> str:
    """Returns a coordinate to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
