"""Code of the user's that ends the process ends the command in a line, in whatever part of it."""

import sys

import pytest

from mutual.commandline import run_command


def leave(code):
    sys.exit(code)


@pytest.mark.parametrize("code", [0, 3, None, "enough\nof it"])
def test_an_exit_in_users_code_is_a_line_that_says_where(code, capsys):
    assert run_command(lambda: leave(code)) == 1
    error = capsys.readouterr().err
    assert f"test_exits.py:{leave.__code__.co_firstlineno + 1} ends the process: sys.exit(" in error
    assert error.count("\n") == 1
