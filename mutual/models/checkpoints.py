"""select_tensors: which of a checkpoint's tensors are a model's, wherever they stand in it and whatever stands before their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

AUTO = "auto"
"""The prefix that is to be found."""
COUNTER = "num_batches_tracked"
"""Of BatchNorm; absent in checkpoints from other frameworks."""
NESTS = ("state_dict", "model", "model_state", "model_state_dict", "ema", "state_dict_ema", "model_ema")
"""Keys under which checkpoints have their weights; the first is preferred where several fit equally and none is an average."""
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_DEEPEST = 8
"""So many levels of dicts are looked through; a file may hold a dict that contains itself."""
_MAX_DICTS = 10_000
_MAX_SHOWN = 5


@dataclass(frozen=True)
class Selection:
    """Tensors of a checkpoint under the names that a model may give them.

    Attributes:
        prefix: what stood before each name.
        tensors: by name without the prefix.
        others: prefixes that fit as well, and were not taken.
    """

    prefix: str
    tensors: dict[str, Tensor]
    others: tuple[str, ...] = ()


def tensor_groups(content: Any) -> dict[str, dict[Any, Tensor]]:
    """Returns the tensors by name of each dict in a checkpoint that holds some, by the dict's path: "" at the top, or "state_dict."."""
    groups: dict[str, dict[Any, Tensor]] = {}
    level = [("", content)] if isinstance(content, dict) else []
    for _ in range(_DEEPEST + 1):
        for path, entry in level:
            tensors = {name: value for name, value in entry.items() if isinstance(value, Tensor)}
            if tensors:
                groups[path] = tensors
        dicts = (
            (f"{path}{key}.", value)
            for path, entry in level
            for key, value in entry.items()
            if isinstance(key, str) and isinstance(value, dict)
        )
        level = list(islice(dicts, _MAX_DICTS))
    return groups


def select_tensors(groups: Mapping[str, Mapping[str, Tensor]], expected: Mapping[str, Tensor], *, prefix: str = AUTO) -> Selection:
    """Returns the tensors behind `prefix`, or behind the one that makes most of their names those in `expected`.

    Where several fit equally, the one that names a moving average is taken, as timm does, or else the first of `NESTS`. Where none makes
    half of the expected names, what a checkpoint has at its usual place is returned.

    Raises:
        ValueError: nothing stands behind the given prefix, or several fit that nothing distinguishes; one line lists the candidates.
    """
    if prefix != AUTO:
        candidates = list(_behind(groups, prefix) or _behind(groups, f"{prefix}."))
        if not candidates:
            raise ValueError(f"no tensor's name begins with {prefix!r}; they begin with {_listed(_beginnings(groups))}")
    else:
        candidates = list(_candidates(groups, expected))
    scores = {each.prefix: _score(each, expected) for each in candidates}
    best_score = max(scores.values(), default=(0, 0))
    if prefix == AUTO and 2 * best_score[0] < sum(not name.endswith(COUNTER) for name in expected):
        return _usual(groups)
    best = [each for each in candidates if scores[each.prefix] == best_score]
    chosen = best[0] if len(best) == 1 else _preferred(best)
    if chosen is None:
        raise ValueError(f"{len(best)} prefixes fit equally; say which in `prefix`: {_listed([each.prefix for each in best])}")
    return Selection(chosen.prefix, chosen.tensors, tuple(each.prefix for each in best if each is not chosen))


def _candidates(groups: Mapping[str, Mapping[str, Tensor]], expected: Mapping[str, Tensor]) -> Iterator[Selection]:
    """Yields what stands behind each prefix that makes at least one name an expected one."""
    for path, tensors in groups.items():
        prefixes = dict.fromkeys(
            name[:start] for name in tensors for start in _boundaries(name) if name[start:] in expected and not name.endswith(COUNTER)
        )
        for prefix in prefixes:
            yield _stripped(path, tensors, prefix)


def _boundaries(name: str) -> list[int]:
    """Returns where a component of a dotted name begins."""
    return [0, *(index + 1 for index, character in enumerate(name) if character == ".")]


def _behind(groups: Mapping[str, Mapping[str, Tensor]], prefix: str) -> list[Selection]:
    """Returns what stands behind a prefix, counted from the top of the file, or else from any dict in it."""
    from_top = [
        _stripped(path, tensors, prefix.removeprefix(path))
        for path, tensors in groups.items()
        if prefix.startswith(path) and any(name.startswith(prefix.removeprefix(path)) for name in tensors)
    ]
    inside = [_stripped(path, tensors, prefix) for path, tensors in groups.items() if any(name.startswith(prefix) for name in tensors)]
    return from_top or inside


def _stripped(path: str, tensors: Mapping[str, Tensor], prefix: str) -> Selection:
    behind = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return Selection(path + prefix, behind)


def _score(selection: Selection, expected: Mapping[str, Tensor]) -> tuple[int, int]:
    """Returns how many tensors have expected names, and how many of these their shapes, too."""
    common = [name for name in selection.tensors if name in expected and not name.endswith(COUNTER)]
    return len(common), sum(selection.tensors[name].shape == expected[name].shape for name in common)


def _preferred(fitting: list[Selection]) -> Selection | None:
    averages = [each for each in fitting if _names_average(each.prefix)]
    if averages:
        return averages[0] if len(averages) == 1 else None
    usual = {each.prefix.partition(".")[0]: each for each in reversed(fitting)}
    return next((usual[nest] for nest in NESTS if nest in usual), None)


def _names_average(prefix: str) -> bool:
    """Returns True for `model_ema.module.` and its like.

    Example:
        >>> _names_average("state_dict_ema."), _names_average("schema.")
        (True, False)
    """
    return any("ema" in component.lower().split("_") for component in prefix.split("."))


def _usual(groups: Mapping[str, Mapping[str, Tensor]]) -> Selection:
    """Returns what a checkpoint has at its usual place, without what wrappers put before every name."""
    paths = [path for nest in ("", *NESTS) for path in groups if path.partition(".")[0] == nest]
    path = paths[0] if paths else max(groups, key=lambda path: len(groups[path]))
    selection = _stripped(path, groups[path], "")
    for prefix in _WRAPPERS * 2:
        if all(name.startswith(prefix) for name in selection.tensors):
            selection = _stripped(selection.prefix, selection.tensors, prefix)
    return selection


def _beginnings(groups: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Returns the first components of all names, those of most tensors first."""
    firsts = Counter(path + name.partition(".")[0] + "." * ("." in name) for path, tensors in groups.items() for name in tensors)
    return [first for first, _ in firsts.most_common()]


def _listed(prefixes: list[str]) -> str:
    shown = ", ".join(repr(prefix) for prefix in prefixes[:_MAX_SHOWN])
    return f"{shown}{', ...' if len(prefixes) > _MAX_SHOWN else ''}"
