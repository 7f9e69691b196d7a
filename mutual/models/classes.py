"""Classes by name: which of a model's outputs stands for which class of the data."""

from __future__ import annotations

from collections.abc import Sequence


def class_columns(model: Sequence[str], data: Sequence[str]) -> list[int] | None:
    """Returns for each class of the `data` the output of the `model` that stands for it; None where the order is the same.

    Classes that are called by their numbers have no names, and keep their places.

    Raises:
        ValueError: they are not the same classes; one line says which are on one side only.
    """
    if len(model) != len(data):
        raise ValueError(f"class counts differ: the model has {len(model)}, the data have {len(data)}")
    if tuple(model) == tuple(data):
        return None
    for where, names in (("the model", model), ("the data", data)):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"classes differ, and cannot be matched by name: {where} has {twice!r} twice")
    if set(model) != set(data):
        if _is_numbered(model) or _is_numbered(data):
            return None
        sides = [_named("the model", set(model) - set(data)), _named("the data", set(data) - set(model))]
        raise ValueError(f"classes differ: {'; '.join(sides)}")
    index_of = {name: index for index, name in enumerate(model)}
    return [index_of[name] for name in data]


def _is_numbered(names: Sequence[str]) -> bool:
    return tuple(names) == tuple(map(str, range(len(names))))


def _named(where: str, names: set[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:3])
    return f"only {where} has {shown}{', ...' if len(names) > 3 else ''}"
