"""Names of classes from a text file: a name a line, or lines `NUMBER name`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from mutual.data.datasets.list_files import lines_of
from mutual.recipe import MAX_CLASSES, printable


def read_class_names(file: str) -> tuple[str, ...]:
    """Returns the classes' names, in the order of their numbers.

    Where each line begins with another number from 0 on, these number the classes, in whatever order the lines are. A name that several
    classes have stands with the class's number behind it, as names tell classes apart.

    Raises:
        ValueError: it cannot be read, holds no names or too many; one line says where.
    """
    path = Path(file)
    if not path.is_file():  # reading a pipe may never return
        raise ValueError(f"data.class_names: {path} is no file; it should be a text file with a name for each class")
    names = [line for _, line in lines_of(path)]
    if not names:
        raise ValueError(f"data.class_names: {path} names no class")
    if len(names) > MAX_CLASSES:
        raise ValueError(f"data.class_names: {path} names {len(names):,} classes; there may be {MAX_CLASSES:,}")
    numbered = [re.match(r"(\d{1,9})[ \t]+(?=\S)", name) for name in names]
    if all(numbered):
        by_number = {int(match[1]): name[match.end() :] for name, match in zip(names, numbered, strict=True) if match}
        if by_number.keys() == set(range(len(names))):
            names = [by_number[number] for number in range(len(names))]
    names = list(map(printable, names))
    while max((counts := Counter(names)).values()) > 1:  # once, unless `a (1)` is among the names, too
        names = [name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]
    return tuple(names)
