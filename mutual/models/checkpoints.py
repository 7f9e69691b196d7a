"""select_tensors: which of a checkpoint's tensors are a model's, wherever they stand in it and whatever stands before their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
_Place = tuple[str, str]
"""The path of a dict in a checkpoint, and what stands before names in it."""


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
    scores = _scores(groups, expected)
    if prefix != AUTO:
        places = [*_places(groups, prefix), *_places(groups, f"{prefix}.")]
        if not places:
            raise ValueError(f"no tensor's name begins with {prefix!r}; they begin with {_listed(_beginnings(groups))}")
        scores = {place: scores.get(place, (0, 0)) for place in places}
    best_score = max(scores.values(), default=(0, 0))
    if prefix == AUTO and 2 * best_score[0] < sum(not name.endswith(COUNTER) for name in expected):
        return _usual(groups)
    best = [place for place, score in scores.items() if score == best_score]
    chosen = best[0] if len(best) == 1 else _preferred(best)
    if chosen is None:
        raise ValueError(f"{len(best)} prefixes fit equally; say which in `prefix`: {_listed([''.join(place) for place in best])}")
    return _stripped(groups, chosen, others=[place for place in best if place != chosen])


def _scores(groups: Mapping[str, Mapping[str, Tensor]], expected: Mapping[str, Tensor]) -> dict[_Place, tuple[int, int]]:
    """Returns for each place how many tensors have expected names there, and how many of these the shapes, too."""
    num_names: Counter[_Place] = Counter()
    num_shapes: Counter[_Place] = Counter()
    for path, tensors in groups.items():
        for name, tensor in tensors.items():
            for start in [0, *(index + 1 for index, character in enumerate(name) if character == ".")]:
                wanted = expected.get(name[start:])
                if wanted is not None and not name.endswith(COUNTER):
                    num_names[path, name[:start]] += 1
                    num_shapes[path, name[:start]] += tensor.shape == wanted.shape
    return {place: (count, num_shapes[place]) for place, count in num_names.items()}


def _places(groups: Mapping[str, Mapping[str, Tensor]], prefix: str) -> list[_Place]:
    """Returns the places that a prefix names, counted from the top of the file, or else from any dict in it."""
    from_top = [(path, prefix.removeprefix(path)) for path in groups if prefix.startswith(path)]
    inside = [(path, prefix) for path in groups]
    for places in (from_top, inside):
        if there := [(path, start) for path, start in places if any(name.startswith(start) for name in groups[path])]:
            return there
    return []


def _stripped(groups: Mapping[str, Mapping[str, Tensor]], place: _Place, *, others: Sequence[_Place] = ()) -> Selection:
    path, prefix = place
    behind = {name.removeprefix(prefix): tensor for name, tensor in groups[path].items() if name.startswith(prefix)}
    return Selection(path + prefix, behind, tuple("".join(other) for other in others))


def _preferred(places: Sequence[_Place]) -> _Place | None:
    averages = [place for place in places if _names_average("".join(place))]
    if averages:
        return averages[0] if len(averages) == 1 else None
    for nest in NESTS:
        inside = [place for place in places if place[0].partition(".")[0] == nest]
        if inside:
            return inside[0] if len(inside) == 1 else None
    return None


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
    path, prefix = paths[0] if paths else max(groups, key=lambda path: len(groups[path])), ""
    for wrapper in _WRAPPERS * 2:
        if all(name.startswith(prefix + wrapper) for name in groups[path]):
            prefix += wrapper
    return _stripped(groups, (path, prefix))


def _beginnings(groups: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Returns the modules at the beginning of names, those with most tensors first."""
    firsts = Counter(path + name.partition(".")[0] + "." for path, tensors in groups.items() for name in tensors if "." in name)
    return [first for first, _ in firsts.most_common()] or list(groups)


def _listed(prefixes: list[str]) -> str:
    shown = ", ".join(repr(prefix) for prefix in prefixes[:_MAX_SHOWN])
    return f"{shown}{', ...' if len(prefixes) > _MAX_SHOWN else ''}"
