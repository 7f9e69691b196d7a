"""Shard paths: the files that a pattern with braces (`{000..127}`, `{a,b}`) and wildcards names, each of them there."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mutual.recipe import Data

MAX_SHARDS = 100_000
"""Files that one pattern may name: beyond is a slip of the keyboard."""
_MAX_BRACES = 16
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")


PREFIX = "wds/"


def paths_by_split(data: Data) -> dict[str, list[Path]]:
    """Returns by split the shards that `data` names.

    Raises:
        ValueError: a shard is missing or named twice, or none is found.
    """
    patterns = {"train": data.dataset.removeprefix(PREFIX), "val": data.val, "test": data.test}
    return {
        split: shard_paths(pattern, data.root, key="data.dataset" if split == "train" else f"data.{split}")
        for split, pattern in patterns.items()
        if isinstance(pattern, str)
    }


def shard_paths(pattern: str, root: str | None, *, key: str) -> list[Path]:
    """Returns the shards that `pattern` names, relative to the folder `root` unless it is absolute; of wildcards in the order of the names.

    Args:
        pattern: a path with braces and wildcards, as a shell knows them.
        root: the recipe's `data.root`.
        key: what names the pattern, for messages.

    Raises:
        ValueError: a shard is missing or named twice, or none is found.
    """
    paths: dict[Path, None] = {}
    missing = []
    for name in expand_braces(str(Path(root or "") / pattern), key=key):
        has_wildcard = glob.has_magic(name)
        for path in map(Path, sorted(glob.glob(name, recursive=True)) if has_wildcard else [name]):  # noqa: PTH207, of an absolute pattern too
            if path in paths:
                raise ValueError(f"{key}: {path} is named twice")
            if not path.is_file() and not has_wildcard:
                missing.append(path)
            paths[path] = None
    if missing and len(missing) == len(paths):
        raise ValueError(
            f"{key}: no shard {missing[0]}" + (f", nor the {len(missing) - 1} others that are named" if len(missing) > 1 else "")
        )
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ValueError(
            f"{key}: no shard {missing[0]}{others}, {len(paths) - len(missing)} of {len(paths)} are there; fetch what is missing"
        )
    if not paths:
        raise ValueError(f"{key}: no file is named as {pattern}" + (f" in {root}" if root else ""))
    return list(paths)


def expand_braces(pattern: str, *, key: str) -> list[str]:
    """Returns the names that `pattern` stands for, in their order.

    Raises:
        ValueError: a brace is wrong, or they are too many.

    Example:
        >>> expand_braces("{train,more}-{08..10}.tar", key="data.dataset")[2:4]
        ['train-10.tar', 'more-08.tar']
    """
    if re.search(r"\{[^{}]*\{", pattern) or pattern.count("{") > _MAX_BRACES:
        raise ValueError(f"{key}: {pattern} has braces in braces, or more than {_MAX_BRACES}")
    names = list(islice(_expanded(pattern, key), MAX_SHARDS + 1))
    if len(names) > MAX_SHARDS:
        raise ValueError(f"{key}: {pattern} names more than {MAX_SHARDS:,} shards")
    return names


def _expanded(pattern: str, key: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        if "{" in pattern or "}" in pattern:
            raise ValueError(f"{key}: {pattern} has a brace without its other half")
        yield pattern
        return
    for choice in _choices(match[1], pattern, key):
        yield from _expanded(pattern[: match.start()] + choice + pattern[match.end() :], key)


def _choices(content: str, pattern: str, key: str) -> Iterator[str]:
    bounds = _RANGE.fullmatch(content)
    if bounds is None:
        if "," not in content or ".." in content:
            raise ValueError(f"{key}: {{{content}}} in {pattern} is neither a range of numbers as {{000..127}} nor a list as {{a,b}}")
        yield from content.split(",")
        return
    first, last = int(bounds[1]), int(bounds[2])
    if last < first:
        raise ValueError(f"{key}: the range {{{content}}} in {pattern} ends before it begins")
    for number in range(first, last + 1):
        yield str(number).zfill(len(bounds[1]))
