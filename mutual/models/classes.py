"""Classes by name: which of a model's outputs stands for which class of the data."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ClassMap:
    """Which of a model's outputs stand for classes of the data.

    Attributes:
        columns: outputs, for each class of the data that the model knows; None: all outputs, in their order.
        known: the classes of the data, by their index, that `columns` stand for; None: all.
        num_outputs: number of the model's outputs, where their names say it.
    """

    columns: tuple[int, ...] | None = None
    known: tuple[int, ...] | None = None
    num_outputs: int | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ClassMap:
        """Returns the map of which `fields` are the attributes, with lists in place of tuples."""
        known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        return cls(**known)

    def indices(self, num_classes: int) -> list[int | None]:
        """Returns by class of the data the output that stands for it, None where there is none.

        Example:
            >>> ClassMap(columns=(4, 2), known=(0, 2)).indices(3)
            [4, None, 2]
        """
        known = range(num_classes) if self.known is None else self.known
        columns = known if self.columns is None else self.columns
        output_of = dict(zip(known, columns, strict=True))
        return [output_of.get(index) for index in range(num_classes)]


def class_columns(model: Sequence[str], data: Sequence[str]) -> list[int] | None:
    """Returns for each class of the `data` the output of the `model` that stands for it; None where the order is the same.

    Classes that are called by their numbers have no names, and keep their places.

    Raises:
        ValueError: they are not the same classes; one line says which are on one side only.
    """
    model, data = [_composed(name) for name in model], [_composed(name) for name in data]
    if len(model) != len(data):
        raise ValueError(f"class counts differ: the model has {len(model)}, the data have {len(data)}")
    if model == data:
        return None
    _check_unique(model, data)
    if set(model) != set(data):
        if _is_numbered(model) or _is_numbered(data):
            return None
        sides = [_named("the model", set(model) - set(data)), _named("the data", set(data) - set(model))]
        raise ValueError(f"classes differ: {'; '.join(sides)}")
    index_of = {name: index for index, name in enumerate(model)}
    return [index_of[name] for name in data]


def match_names(model: Sequence[str | Sequence[str]], data: Sequence[str]) -> ClassMap:
    """Returns which outputs stand for the classes that a model and the data have in common.

    Args:
        model: the class of each of its outputs: a name, or several that mean the same.
        data: the data's classes.

    Raises:
        ValueError: a name stands for two outputs, or fewer than two classes are in common; one line says which.
    """
    aliases = [tuple(map(_composed, (names,) if isinstance(names, str) else names)) for names in model]
    data = [_composed(name) for name in data]
    first = [names[0] for names in aliases]
    if len(model) == len(data) and (set(first) == set(data) or _is_numbered(first) or _is_numbered(data)):
        order = class_columns(first, data)
        return ClassMap(None if order is None else tuple(order), num_outputs=len(model))
    if _is_numbered(first) or _is_numbered(data):
        raise ValueError(f"class counts differ: the model has {len(model)}, the data have {len(data)}, and they are numbers, not names")
    classes = set(data)
    _check_unique([name for name in first if name in classes], data)
    index_of: dict[str, int] = {}
    for index, names in enumerate(aliases):
        for name in classes.intersection(names):
            if name in index_of:
                raise ValueError(f"classes differ, and cannot be matched by name: two outputs are called {name!r}; give `classes` by index")
            index_of[name] = index
    known = [index for index, name in enumerate(data) if name in index_of]
    if len(known) < 2:
        sides = [_named("the model", set(first) - set(data)), _named("the data", set(data) - index_of.keys())]
        raise ValueError(f"{len(known)} of its {len(model)} classes are among the data's {len(data)}: {'; '.join(filter(None, sides))}")
    columns = tuple(index_of[data[index]] for index in known)
    return ClassMap(columns, None if len(known) == len(data) else tuple(known), len(model))


def match_indices(indices: Sequence[int | None], num_outputs: int, num_classes: int) -> ClassMap:
    """Returns the same from the index of the output of each class of the data, None where the model does not know it.

    Raises:
        ValueError: there is not one for each class, one is no output, or two are the same; one line says which.
    """
    if len(indices) != num_classes:
        raise ValueError(f"{len(indices)} indices for the data's {num_classes} classes")
    known = [index for index, output in enumerate(indices) if output is not None]
    columns = [output for output in indices if output is not None]
    beyond = next((output for output in columns if output >= num_outputs), None)
    if beyond is not None:
        raise ValueError(f"output {beyond} is not there: the model has {num_outputs}; say how many it has by args: {{num_classes: ..}}")
    if len(set(columns)) != len(columns):
        twice = next(output for output in columns if columns.count(output) > 1)
        raise ValueError(f"output {twice} stands for two classes")
    if len(known) < 2:
        raise ValueError("the model knows fewer than two of the data's classes")
    return ClassMap(tuple(columns), None if len(known) == num_classes else tuple(known))


def _composed(name: str) -> str:
    """Returns a name with its accents as parts of the letters: folders of macOS have them beside the letters."""
    return unicodedata.normalize("NFC", name)


def _check_unique(model: Sequence[str], data: Sequence[str]) -> None:
    for where, names in (("the model", model), ("the data", data)):
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if twice is not None:
            raise ValueError(f"classes differ, and cannot be matched by name: {where} has {twice!r} twice")


def _is_numbered(names: Sequence[str]) -> bool:
    return tuple(names) == tuple(map(str, range(len(names))))


def _named(where: str, names: set[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(repr(name) for name in sorted(names)[:3])
    return f"only {where} has {shown}{', ...' if len(names) > 3 else ''}"
