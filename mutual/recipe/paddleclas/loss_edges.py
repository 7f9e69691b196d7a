"""Edge, LossValue and objectives_of: what a loss of theirs trains, as directed edges, and edges as the objectives of a recipe.

A loss of theirs gives values by name; a value whose gradient flows into two models that are both trained is two edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mutual.recipe.edges import LOGITS

Path = str | tuple[str, ...]
"""An output as `at` calls it; several where a loss compares them together."""


@dataclass(frozen=True)
class Edge:
    """A model that learns, at an output, from another one's output or from the labels."""

    learner: str
    source: str | None = None
    at: Path = LOGITS
    source_at: Path = LOGITS


@dataclass(frozen=True)
class LossValue:
    """One of the values that a loss of theirs returns.

    Attributes:
        name: its key in what their losses return; of two values of one name their sum has the later one alone.
        loss: the loss of ours that computes it.
        edges: whom it trains; none where all that it reads is frozen.
        arguments: of our loss.
        factor: what our loss is to be multiplied by, the weight left out.
    """

    name: str
    loss: str
    edges: tuple[Edge, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    factor: float = 1.0


def objectives_of(values: Sequence[LossValue], weight: float, peers: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the objectives whose edges are those of `values`, each with this weight, of a group of `peers`."""
    kinds: dict[tuple[Any, ...], list[LossValue]] = {}
    for value in values:
        kinds.setdefault((value.loss, value.factor, *sorted(value.arguments.items())), []).append(value)
    objectives = []
    for alike in kinds.values():
        first, counts = alike[0], Counter(edge for value in alike for edge in value.edges)
        for count in dict.fromkeys(counts.values()):
            head = {"loss": first.loss, "weight": float(weight * first.factor * count)}
            edges = [edge for edge in counts if counts[edge] == count]
            objectives += [{**head, **ends, **first.arguments} for ends in _ends_of(edges, peers)]
    return objectives


@dataclass
class _Row:
    """A learner at an output, and its sources at theirs."""

    learner: str
    at: Path
    sources: dict[str, Path]


def _ends_of(edges: Iterable[Edge], peers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields learners, sources and outputs of objectives that have these edges together, as few as may be."""
    rows = _rows_of(edges)
    is_mutual = all(row.sources.keys() == set(peers) - {row.learner} for row in rows) and len({row.learner for row in rows}) == len(rows)
    if len(rows) > 1 and is_mutual:  # a peer may not stand among its own sources; the default is every other peer
        yield from _described(rows, names_sources=False)
        return
    while rows:
        block = [rows.pop(0)]
        for row in list(rows):
            if row.sources == block[0].sources and row.learner not in {each.learner for each in block}:
                block.append(row)
                rows.remove(row)
        yield from _described(block)


def _rows_of(edges: Iterable[Edge]) -> list[_Row]:
    rows: list[_Row] = []
    for edge in edges:
        sources = {} if edge.source is None else {edge.source: edge.source_at}
        for row in rows:
            if (row.learner, row.at) == (edge.learner, edge.at) and not row.sources.keys() & sources.keys():
                row.sources |= sources
                break
        else:
            rows.append(_Row(edge.learner, edge.at, sources))
    return rows


def _described(rows: Sequence[_Row], *, names_sources: bool = True) -> Iterator[dict[str, Any]]:
    learners = {row.learner: row.at for row in rows}
    sources: dict[str, Path] = {}
    for row in rows:
        if any(sources.get(name, path) != path for name, path in row.sources.items()):  # read at several outputs
            yield from (each for row in rows for each in _described([row]))
            return
        sources |= row.sources
    ends: dict[str, Any] = {"learners": list(learners)}
    if sources and names_sources:
        ends["sources"] = list(sources)
    if any(len(row.sources) > 1 for row in rows):
        ends["reduce"] = "sum"
    yield ends | _outputs_of(learners, sources)


def _outputs_of(learners: Mapping[str, Path], sources: Mapping[str, Path]) -> dict[str, Any]:
    if all(sources.get(name, path) == path for name, path in learners.items()):
        at = _at({**learners, **sources})
        return {} if at == LOGITS else {"at": at}
    return {"at": _at(learners), "source_at": _at(sources)}


def _at(paths: Mapping[str, Path]) -> Any:
    written = {name: path if isinstance(path, str) else list(path) for name, path in paths.items()}
    first = next(iter(written.values()))
    return first if all(path == first for path in written.values()) else written
