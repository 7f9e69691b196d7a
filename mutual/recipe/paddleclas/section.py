"""Section: a mapping of a config whose entries are taken one by one, so that what nobody has taken can be named."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mutual.recipe.errors import Fault, RecipeError
from mutual.recipe.text import format_value

_MISSPELT = 0.85
"""As alike two keys are of which one is the other with a mistake: `epoch` and `epochs`, not `eval_interval` and `save_interval`."""
_LARGEST, _SMALLEST = 1e30, 1e-30
"""Of numbers that a config says, apart from 0: what is computed from a few of them is a number, too."""


@dataclass
class Notes:
    """What a conversion has to say, in the order in which it was found."""

    left_out: list[str] = field(default_factory=list)
    """Entries that have no counterpart and change numbers, each as `KEY.PATH: VALUE ...: why`."""
    remarks: list[str] = field(default_factory=list)
    """What is another way of saying or doing the same, or differs by less than a setting."""
    unneeded: list[str] = field(default_factory=list)
    """Key paths of entries that say nothing to a recipe: what is done by another command, or by itself."""


def is_number(value: Any) -> bool:
    """Returns whether it is a finite number of a size that settings have; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and (value == 0 or _SMALLEST <= abs(value) <= _LARGEST)


class Section:
    """A mapping of a config; every entry is taken, passed over, or named by `name_untaken` as one that has no counterpart.

    Attributes:
        content: the mapping as it was given.
        path: its key path.
        notes: what a conversion says of it.
    """

    def __init__(self, content: Mapping[str, Any], path: str, notes: Notes) -> None:
        self._left = dict(content)
        self._known: set[str] = set()  # keys that somebody has asked for
        self.content = content
        self._sections: list[Section] = []
        self.path = path
        self.notes = notes

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry of this key that nobody has taken, and that is not null."""
        self._known.add(key)
        return self._left.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """The keys that nobody has taken."""
        return iter(list(self._left))

    def is_list(self, key: str) -> bool:
        """Returns whether an entry that nobody has taken is a list."""
        return isinstance(self._left.get(key), list)

    def take(self, key: str, default: Any = None) -> Any:
        """Returns an entry, or `default` where it is absent or null."""
        self._known.add(key)
        value = self._left.pop(key, None)
        return default if value is None else value

    def put_back(self, key: str, value: Any) -> None:
        """Leaves an entry that was taken to whoever asks for it next, or to be named."""
        self._left[key] = value

    def number(self, key: str, default: float | None = None) -> Any:
        """Returns a number; a fraction such as `1.0/255.0` is one, too, as PaddleClas reads it.

        Raises:
            RecipeError: it is none.
        """
        value = self.take(key, default)
        if isinstance(value, str):
            above, _, below = value.partition("/")
            with suppress(ValueError, ArithmeticError):
                value = float(above) / float(below or 1)
        if value is not None and not is_number(value):
            raise self.error(key, f"{format_value(value)} is no number")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """Returns true or false.

        Raises:
            RecipeError: it is neither.
        """
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"{format_value(value)} is neither true nor false")
        return value

    def text(self, key: str, default: str | None = None) -> Any:
        """Returns a text.

        Raises:
            RecipeError: it is none.
        """
        value = self.take(key, default)
        if value is not None and not isinstance(value, str):
            raise self.error(key, f"{format_value(value)} is no text")
        return value

    def entries(self, key: str) -> list[Any]:
        """Returns a list; one that is absent or null is empty.

        Raises:
            RecipeError: it is none.
        """
        value = self.take(key, [])
        if not isinstance(value, list):
            raise self.error(key, f"{format_value(value)} is no list")
        return value

    def section(self, key: str) -> Section:
        """Returns a mapping as a section; one that is absent or null is empty.

        Raises:
            RecipeError: it is none.
        """
        return self.opened(key, self.take(key, {}))

    def named_sections(self, key: str) -> list[tuple[str, Section]]:
        """Returns a list of mappings of one key each, `- NAME: {...}` or `- NAME`, as names and sections.

        Raises:
            RecipeError: an entry is none of these.
        """
        found = []
        for index, entry in enumerate(self.entries(key)):
            if isinstance(entry, str):
                entry = {entry: None}
            if not isinstance(entry, Mapping) or len(entry) != 1:
                raise self.error(f"{key}.{index}", f"{format_value(entry)} is no mapping of one name to its arguments")
            ((name, content),) = entry.items()
            found.append((str(name), self.opened(f"{key}.{index}.{name}", content or {})))
        return found

    def pass_over(self, *keys: str) -> None:
        """Takes entries that say nothing to a recipe."""
        self._known.update(keys)
        for key in keys:
            if self._left.pop(key, None) is not None:
                self.notes.unneeded.append(self._path_of(key))

    def leave_out(self, key: str, why: str, *, value: Any = None) -> None:
        """Takes an entry and names it as one that has no counterpart; `value` is what it was where it has been taken before."""
        value = self._left.pop(key, value)
        self.notes.left_out.append(f"{self._path_of(key)}: {format_value(value)}: {why}")

    def leave_out_all(self, why: str) -> None:
        """Takes all that is left of the section and names the whole of it as one entry that has no counterpart."""
        shown = f"{format_value(dict(self.content))}: " if self.content else ""
        self.notes.left_out.append(f"{self.path}: {shown}{why}")
        self._left.clear()

    def warn(self, text: str, key: str = "") -> None:
        """Names what has no counterpart though its entries have been taken, or are those of more than this section."""
        self.notes.left_out.append(f"{self._path_of(key)}: {text}")

    def remark(self, text: str, key: str = "") -> None:
        """Notes what differs, or is said in another way, at this section or at an entry of it."""
        self.notes.remarks.append(f"{self._path_of(key)}: {text}")

    def name_untaken(self) -> None:
        """Names each entry that nobody has taken, here and in all sections of it; null, an empty text and false say nothing."""
        for key, value in self._left.items():
            if value not in (None, "", False, [], {}):
                self.notes.left_out.append(f"{self._path_of(key)}: {format_value(value)}: has no counterpart{self._misspelt(key)}")
        self._left.clear()
        for section in self._sections:
            section.name_untaken()

    def error(self, key: str, message: str) -> RecipeError:
        """A RecipeError at an entry."""
        return RecipeError([Fault(self._path_of(key), message)])

    def opened(self, key: str, content: Any) -> Section:
        """Returns a mapping that was found at `key` as a section.

        Raises:
            RecipeError: it is none.
        """
        if not isinstance(content, Mapping):
            raise self.error(key, f"{format_value(content)} is no mapping")
        section = Section(content, self._path_of(key), self.notes)
        section.check_keys()
        self._sections.append(section)
        return section

    def check_keys(self) -> None:
        """Refuses keys that are no names.

        Raises:
            RecipeError: a key is a number, say, or null.
        """
        for key in self.content:
            if not isinstance(key, str):
                raise self.error("", f"the key {format_value(key)} is no name; write it as a text")

    def _misspelt(self, key: str) -> str:
        near = difflib.get_close_matches(str(key)[:100], self._known, n=1, cutoff=_MISSPELT)
        return f"; did you mean {format_value(near[0])}?" if near else ""

    def _path_of(self, key: str) -> str:
        return ".".join(part for part in (self.path, key) if part)
