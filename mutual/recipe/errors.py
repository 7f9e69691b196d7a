"""RecipeError: every fault of a recipe, one line each, with the nearest valid choice."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice

from mutual.recipe.limits import MAX_FAULTS
from mutual.recipe.text import format_value, printable

_MAX_SOURCE = 400  # characters: file names have at most 255, and the user needs them whole
_MAX_PATH = 200  # characters
_MAX_MESSAGE = 1_500  # characters: the longest list of choices has 32 names


@dataclass(frozen=True)
class Fault:
    """One mistake: where it stands (a key path such as `peers.a.model`), and what would be right."""

    path: str
    message: str
    source: str = ""
    """What the mistake was made in; empty where that is the recipe's file."""


class InputError(ValueError):
    """The user's input is wrong; `str(error)` says in a line what, where and what would be right."""


class RunError(RuntimeError):
    """A run ends early although the user's input is right; `str(error)` says in a line why. All processes raise it at the same point."""


class RecipeError(InputError):
    """The user's recipe is wrong; `str(error)` has one line for each fault.

    A line reads `FILE: KEY.PATH: MESSAGE`, and MESSAGE names the value and the remedy.
    """

    def __init__(self, faults: Iterable[Fault], *, source: str = "") -> None:
        listed = list(islice(faults, MAX_FAULTS + 1))
        self.faults = tuple(listed[:MAX_FAULTS])
        self.source = source
        lines = [_line(fault, source) for fault in self.faults]
        if len(listed) > MAX_FAULTS:
            lines.append(f"there are more mistakes than these {MAX_FAULTS}")
        super().__init__("\n".join(lines))


def _line(fault: Fault, source: str) -> str:
    prefixes = (printable(fault.source or source, max_length=_MAX_SOURCE), printable(fault.path, max_length=_MAX_PATH))
    message = printable(re.sub(r"\s*\n\s*", " ", fault.message), max_length=_MAX_MESSAGE)
    return ": ".join(part for part in (*prefixes, message) if part)


@dataclass(frozen=True)
class Origin:
    """Where a recipe comes from; two recipes of equal content are equal whatever their origins."""

    file: str = field(default="", compare=False)
    overrides: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """Each override's key path and text, in the order of their application."""

    def error(self, faults: Iterable[Fault]) -> RecipeError:
        """A RecipeError in which each fault names the override that caused it, or else the file."""
        return RecipeError((replace(fault, source=self._source(fault.path)) for fault in faults), source=self.file)

    def _source(self, path: str) -> str:
        for key_path, text in reversed(self.overrides):
            if f"{path}.".startswith(f"{key_path}."):
                return override_source(text)
        return self.file


def override_source(text: str) -> str:
    """Returns what the override `text` is called as the source of a fault."""
    return f"override {printable(text, max_length=120)}"


def did_you_mean(name: object, choices: Iterable[str], *, num_near: int = 3) -> str:
    """Returns `; did you mean 'x'?` for the nearest of `choices`, or a list of them when none is near."""
    known = sorted(set(choices))
    text = name[:100] if isinstance(name, str) else format_value(name)  # the time to compare grows with the length
    near = difflib.get_close_matches(text, known, n=num_near, cutoff=0.6)
    near = [choice for choice in near if sorted(choice) == sorted(text)] or near  # letters that have changed places are no other word
    if not near and len(text) > 2:
        near = [choice for choice in known if text in choice][:num_near]
    if near:
        return f"; did you mean {' or '.join(format_value(choice) for choice in near)}?"
    if not known:
        return ""
    shown = ", ".join(printable(choice, max_length=60) for choice in known[:32])
    return f"; choose from {shown}" + (", ..." if len(known) > 32 else "")
