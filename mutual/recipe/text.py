"""Text: values, names of files and foreign messages in one line that any terminal can print."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from mutual.recipe.limits import MAX_DIGITS


def format_value(value: Any, *, max_length: int = 60) -> str:
    """Returns `value` on one line of at most `max_length` characters, in YAML's words for null, true and false."""
    text = ""
    for piece in _pieces(value, max_length):
        text += piece
        if len(text) > max_length:  # the rest, which may be endless, is not spelled out
            return f"{text[: max_length - 3]}..."
    return text


def printable(text: object, *, max_length: int | None = None) -> str:
    """Returns the first `max_length` characters of `text` in one line; what cannot be printed (str.isprintable) is written as escapes.

    Bytes of a name that is not UTF-8 (as os.fsdecode has them) stay as they are, for `allow_any_name` lets them be printed.
    """
    whole = str(text)
    start = whole if max_length is None or len(whole) <= max_length else f"{whole[: max_length - 3]}..."
    shown = "".join(each if each.isprintable() or _is_byte(each) else _escaped(each) for each in start)
    if shown.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") != shown:  # bytes that are UTF-8 of something after all
        return "".join(_escaped(each) if _is_byte(each) else each for each in shown)
    return shown


def printable_lines(text: str) -> str:
    """Returns `text` with its line breaks, each line printable."""
    return "\n".join(map(printable, text.split("\n")))


def first_line(error: BaseException, *, max_length: int = 200) -> str:
    """Returns the first line of what `error` says, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    first = lines[0].strip() if lines else type(error).__name__
    return printable(first if len(first) <= max_length else f"{first[:max_length]} ...")


def allow_any_name(*streams: TextIO) -> None:
    """Lets names of files that are not UTF-8 be printed: as their bytes, or where the terminal's encoding is another one, as escapes."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower().replace("-", "") == "utf8" else "backslashreplace")


def _pieces(value: Any, max_length: int) -> Iterator[str]:
    if value is None or isinstance(value, bool):
        yield json.dumps(value)
    elif isinstance(value, str):
        yield repr(value[: max_length + 1])
    elif isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:  # Python refuses to spell the longest
        yield f"a number of more than {MAX_DIGITS} digits"
    elif isinstance(value, Mapping | list | tuple):
        opening, closing = ("{", "}") if isinstance(value, Mapping) else ("[", "]")
        yield opening
        for index, entry in enumerate(value):
            yield ", " if index else ""
            yield from _pieces(entry, max_length)
            if isinstance(value, Mapping):
                yield ": "
                yield from _pieces(value[entry], max_length)
        yield closing
    else:
        yield printable(" ".join(repr(value).split()), max_length=max_length + 1)


def _is_byte(character: str) -> bool:
    return "\udc80" <= character <= "\udcff"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
