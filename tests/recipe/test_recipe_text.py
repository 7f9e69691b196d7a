"""Text in one line: what cannot be printed is an escape, bytes of names stay, an empty message is told by its kind."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual.recipe import InputError, first_line, printable
from mutual.recipe.text import printable_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\tc", r"a\nb\tc"),
        ("left\u202eright", r"left\u202eright"),
        ("\x1b[2J\x9b2J\x85", r"\x1b[2J\x9b2J\x85"),
        ("\u2028\ud800\U000e0001", r"\u2028\ud800\U000e0001"),
        ("Grüße 犬.png", "Grüße 犬.png"),
    ],
)
def test_what_cannot_be_printed_is_an_escape(text, expected):
    assert printable(text) == expected


def test_bytes_of_a_name_stay_unless_together_they_are_a_control_character():
    name = os.fsdecode(b"\xff\xfe.png")
    assert printable(name) == name
    assert printable("\udcc2\udc9b2J") == r"\udcc2\udc9b2J"


@given(st.text(st.characters()))
def test_any_text_is_printable_once_and_for_all(text):
    shown = printable(text)
    assert printable(shown) == shown
    assert all(each.isprintable() or "\udc80" <= each <= "\udcff" for each in os.fsencode(shown).decode("utf-8", "surrogateescape"))


def test_a_text_is_cut_where_it_is_too_long():
    assert printable("x" * 20, max_length=10) == "x" * 7 + "..."
    assert printable("x" * 10, max_length=10) == "x" * 10


def test_lines_stay_lines():
    assert printable_lines("one\x07\ntwo\r\n") == "one\\x07\ntwo\\r\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("\n first \x1b line\nsecond"), r"first \x1b line"),
        (RuntimeError(), "RuntimeError"),
        (InputError(" \n "), "InputError"),
        (OSError("x" * 300), "x" * 200 + " ..."),
    ],
)
def test_an_error_is_reported_in_its_first_line(error, expected):
    assert first_line(error) == expected
