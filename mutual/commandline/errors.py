"""RunError: what ends a run although the user's input is right."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run ends early although the user's input is right; `str(error)` says in a line why."""
