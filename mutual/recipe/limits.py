"""Limits: how large a recipe may be, so that reading one takes less than a second and a few megabytes, whatever is in it.

Our own recipes have at most 1.6 kB, 125 values and 5 levels; a resolved one of eight peers and 20 objectives has 10 kB and 1,300 values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_RECIPE_BYTES = 128 * 1024
"""Of a file: the scanner, which is in Python, reads about a megabyte a second."""
MAX_VALUES = 5_000
"""Keys, values, lists and mappings, each alias counted with all that it stands for: a few aliases can stand for billions."""
MAX_CHARACTERS = 64 * 1024
"""Of all keys and values together, aliases counted likewise."""
MAX_DEPTH = 32
"""Levels of lists and mappings inside each other: the parser, pydantic and whoever walks over a recipe recurse into each."""
MAX_DIGITS = 40
"""Of a whole number: a seed has 20, Python reads no more than 4,300, and the time it takes grows with their square."""
MAX_OVERRIDES = 1_000
"""Each is a YAML text of its own, and is looked through for each mistake."""
MAX_OVERRIDE_CHARACTERS = 32 * 1024
"""Of all overrides together: each may be beyond a limit by itself, and all of them are reported."""
MAX_FAULTS = 50
"""Mistakes that are reported of one recipe; where there are more, it is another file that was given."""
MAX_CANDIDATES = 1_000
"""Files beside a recipe that is not there, of which the one with the nearest name is given."""

TOO_DEEP = f"more than {MAX_DEPTH} levels of lists and mappings inside each other; a recipe has fewer"
TOO_MANY_DIGITS = f"a whole number of more than {MAX_DIGITS} digits; a recipe has none"


class LimitError(ValueError):
    """A value is beyond a limit of recipes; `str(error)` names the limit."""


@dataclass(frozen=True)
class Extent:
    """How much a value holds, what stands in it several times counted each time."""

    values: int = 0
    characters: int = 0
    levels: int = 0
    """Of lists and mappings inside each other; 0 for a scalar."""

    def __add__(self, other: Extent) -> Extent:
        """The extent of two values side by side."""
        return Extent(self.values + other.values, self.characters + other.characters, max(self.levels, other.levels))

    def wrapped(self) -> Extent:
        """The extent of a list or mapping of this content."""
        return Extent(self.values + 1, self.characters, self.levels + 1)

    def inside(self, depth: int) -> Extent:
        """The same, with levels counted from `depth` levels further out."""
        return Extent(self.values, self.characters, self.levels and self.levels + depth)

    def beyond(self, other: Extent) -> bool:
        """Whether it has more of anything than `other`."""
        return self.values > other.values or self.characters > other.characters or self.levels > other.levels

    def excess(self) -> str | None:
        """Which limit this is beyond, or None."""
        if self.levels > MAX_DEPTH:
            return TOO_DEEP
        if self.values > MAX_VALUES:
            return f"more than {MAX_VALUES:,} values, aliases counted with all that they stand for; a recipe has fewer"
        if self.characters > MAX_CHARACTERS:
            return f"more than {MAX_CHARACTERS:,} characters, aliases counted with all that they stand for; a recipe has fewer"
        return None


def measure(value: Any) -> Extent:
    """Returns the extent of `value`, of which no more is walked over than the limits allow: it may hold itself.

    Raises:
        LimitError: it is beyond a limit.
    """
    total = Extent()
    for extent in _extents(value, 0):
        total += extent
        excess = total.excess()
        if excess is not None:
            raise LimitError(excess)
    return total


def _extents(value: Any, depth: int) -> Iterator[Extent]:
    if isinstance(value, Mapping | list | tuple):
        yield Extent(1, 0, depth + 1)
        for entry in (entry for item in value.items() for entry in item) if isinstance(value, Mapping) else value:
            yield from _extents(entry, depth + 1)
        return
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise LimitError(TOO_MANY_DIGITS)
    yield Extent(1, len(value) if isinstance(value, str) else 0)
