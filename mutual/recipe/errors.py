"""RecipeError: every fault of a recipe, one line each, with the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Fault:
    """One mistake: where it stands (a key path such as `peers.a.model`), and what would be right."""

    path: str
    message: str
    source: str = ""
    """What the mistake was made in; empty where that is the recipe's file."""


class InputError(ValueError):
    """The user's input is wrong; `str(error)` says in a line what, where and what would be right."""


class RecipeError(InputError):
    """The user's recipe is wrong; `str(error)` has one line for each fault.

    A line reads `FILE: KEY.PATH: MESSAGE`, and MESSAGE names the value and the remedy.
    """

    def __init__(self, faults: Iterable[Fault], *, source: str = "") -> None:
        self.faults = tuple(faults)
        self.source = source
        super().__init__(
            "\n".join(": ".join(part for part in (fault.source or source, fault.path, fault.message) if part) for fault in self.faults)
        )


@dataclass(frozen=True)
class Origin:
    """Where a recipe comes from; two recipes of equal content are equal whatever their origins."""

    file: str = field(default="", compare=False)
    overrides: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """Each override's key path and text, in the order of their application."""

    def error(self, faults: Iterable[Fault]) -> RecipeError:
        """A RecipeError in which each fault names the override that caused it, or else the file."""
        return RecipeError([replace(fault, source=self._source(fault.path)) for fault in faults], source=self.file)

    def _source(self, path: str) -> str:
        for key_path, text in reversed(self.overrides):
            if f"{path}.".startswith(f"{key_path}."):
                return f"override {text}"
        return self.file


def did_you_mean(name: object, choices: Iterable[str], *, most: int = 3) -> str:
    """Returns `; did you mean 'x'?` for the nearest of `choices`, or a list of them when none is near."""
    known = sorted(set(choices))
    text = str(name)
    near = difflib.get_close_matches(text, known, n=most, cutoff=0.6)
    if not near and len(text) > 2:
        near = [choice for choice in known if text in choice][:most]
    if near:
        return f"; did you mean {' or '.join(repr(choice) for choice in near)}?"
    if not known:
        return ""
    shown = ", ".join(known[:32])
    return f"; choose from {shown}" + (", ..." if len(known) > 32 else "")
