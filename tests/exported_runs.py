"""Exports of peer `a` of a run, and the lines that they are refused with."""

from mutual import export


def exported(run, *options):
    """Exports peer `a` and returns the folder."""
    assert export.main([str(run), "--peer", "a", *map(str, options)]) == 0
    return run / "export"


def refused(capsys, run, *options):
    """The line that an export of peer `a` is refused with."""
    capsys.readouterr()
    assert export.main([str(run), "--peer", "a", *map(str, options)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error
