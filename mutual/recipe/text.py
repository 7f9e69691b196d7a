"""Text: values, names of files and other people's messages in one line that any terminal can show."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from mutual.recipe.limits import MAX_DIGITS


def format_value(value: Any, *, most: int = 60) -> str:
    """Returns `value` on one line of at most `most` characters, in YAML's words for null, true and false."""
    text = ""
    for piece in _pieces(value, most):
        text += piece
        if len(text) > most:  # the rest, which may be endless, is not spelled out
            return f"{text[: most - 3]}..."
    return text


def printable(text: object, *, most: int | None = None) -> str:
    """Returns the first `most` characters of `text` in one line; what cannot be printed (str.isprintable) is written as escapes.

    Bytes of a name that is not UTF-8 (as os.fsdecode has them) stay as they are, for `allow_any_name` lets them be printed.
    """
    whole = str(text)
    start = whole if most is None or len(whole) <= most else f"{whole[: most - 3]}..."
    shown = "".join(each if each.isprintable() or _is_byte(each) else _escaped(each) for each in start)
    if shown.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") != shown:  # bytes that are UTF-8 of something after all
        return "".join(_escaped(each) if _is_byte(each) else each for each in shown)
    return shown


def printable_lines(text: str) -> str:
    """Returns `text` with its line breaks, each line printable."""
    return "\n".join(map(printable, text.split("\n")))


def first_line(error: BaseException, *, most: int = 200) -> str:
    """Returns the first line of what `error` says, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    first = lines[0].strip() if lines else type(error).__name__
    return printable(first if len(first) <= most else f"{first[:most]} ...")


def allow_any_name(*streams: TextIO) -> None:
    """Lets names of files that are not UTF-8 be printed: as their bytes, or where the terminal's encoding is another one, as escapes."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower().replace("-", "") == "utf8" else "backslashreplace")


def _pieces(value: Any, most: int) -> Iterator[str]:
    if value is None or isinstance(value, bool):
        yield json.dumps(value)
    elif isinstance(value, str):
        yield repr(value[: most + 1])
    elif isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:  # Python refuses to spell the longest
        yield f"a number of more than {MAX_DIGITS} digits"
    elif isinstance(value, Mapping | list | tuple):
        opening, closing = ("{", "}") if isinstance(value, Mapping) else ("[", "]")
        yield opening
        for number, entry in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(entry, most)
            if isinstance(value, Mapping):
                yield ": "
                yield from _pieces(value[entry], most)
        yield closing
    else:
        yield printable(" ".join(repr(value).split()), most=most + 1)


def _is_byte(character: str) -> bool:
    return "\udc80" <= character <= "\udcff"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
