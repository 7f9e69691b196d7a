"""The graph of edges: learners in a row, what teaches them from above, what they learn from each other as arcs below.

The badge of an arc stands at its lowest point. Two pairs of places with the same middle are not equally far apart, and arcs are as deep
as their ends are far apart, so that no two badges meet, whatever the number of learners.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mutual.engine.report.findings import EdgeFinding
from mutual.engine.report.pages.charts import svg
from mutual.engine.report.pages.markup import Markup, clip, element, join, name, scroll_box, table

_STEP, _ROW, _TOP, _HALF_HEIGHT = 104.0, 150.0, 20.0, 17.0
_ARC = 30.0  # pixels that an arc is deeper for each place between its ends
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LABELS = "labels"

Kind = tuple[str, str, float]
"""Loss, what it reads, and weight: what the badges stand for."""
Place = tuple[float, float]


@dataclass(frozen=True)
class _Bundle:
    """All edges from `source` to `learner`, or in both directions."""

    source: str
    learner: str
    kinds: tuple[Kind, ...]
    is_mutual: bool = False


def edge_graph(edges: Sequence[EdgeFinding], styles: Mapping[str, str]) -> Markup:
    """Returns the drawing, the key to its badges, and the edges as a table.

    Args:
        edges: who learns what from whom.
        styles: by member the CSS class of its colour.
    """
    kinds = {kind: _badge_name(index) for index, kind in enumerate(dict.fromkeys(map(_kind, edges)))}
    learners = list(dict.fromkeys(edge.learner for edge in edges))
    sources = sorted(dict.fromkeys(edge.source for edge in edges if edge.source not in learners), key=lambda each: each != _LABELS)
    columns = max(len(learners), len(sources), 2)
    width = _STEP * columns
    places = {each: ((index + 0.5) * width / len(learners), _TOP + _ROW) for index, each in enumerate(learners)}
    above = {each: ((index + 0.5) * width / len(sources), _TOP) for index, each in enumerate(sources)}
    down = [_straight(bundle, above, places, sources, kinds) for bundle in _bundles(edges) if bundle.source in above]
    arcs = [_arc(bundle, places, kinds) for bundle in _bundles(edges) if bundle.source in places]
    nodes = [_node(each, at, styles.get(each)) for each, at in {**above, **places}.items()]
    depth = max((_depth(bundle, places) for bundle in _bundles(edges) if bundle.source in places), default=0.0)
    height = _TOP + _ROW + _HALF_HEIGHT + depth + 16
    said = f"Who learns from whom: {len(edges)} edges between {len(learners)} learners and {len(sources)} other sources"
    drawn = svg(
        *(line for line, _ in [*down, *arcs]), *nodes, *(badge for _, badge in [*down, *arcs]), label=said, width=width, height=height
    )
    return join([element("figure", scroll_box(drawn, label=said), class_="wide"), _key(kinds), _as_table(edges)])


def _kind(edge: EdgeFinding) -> Kind:
    return edge.loss, edge.at, edge.weight


def _badge_name(index: int) -> str:
    return _LETTERS[index] if index < len(_LETTERS) else str(index + 1)


def _bundles(edges: Sequence[EdgeFinding]) -> list[_Bundle]:
    """Returns the edges of each (source, learner) together, and both directions where they are the same."""
    by_ends: dict[tuple[str, str], list[Kind]] = {}
    for edge in edges:
        by_ends.setdefault((edge.source, edge.learner), []).append(_kind(edge))
    bundles = []
    for (source, learner), kinds in by_ends.items():
        back = by_ends.get((learner, source))
        is_mutual = back is not None and sorted(back) == sorted(kinds)
        if not is_mutual or source < learner:
            bundles.append(_Bundle(source, learner, tuple(dict.fromkeys(kinds)), is_mutual))
    return bundles


def _straight(
    bundle: _Bundle,
    above: Mapping[str, Place],
    places: Mapping[str, Place],
    sources: Sequence[str],
    kinds: Mapping[Kind, str],
) -> tuple[Markup, Markup]:
    """Returns the arrow from a source above to a learner, and its badge, on a height of the source's own."""
    (x1, y1), (x2, y2) = above[bundle.source], places[bundle.learner]
    start, end = (x1, y1 + _HALF_HEIGHT), (x2 + min(16.0, max(-16.0, 0.12 * (x1 - x2))), y2 - _HALF_HEIGHT - 2)
    length = math.dist(start, end)
    unit = ((end[0] - start[0]) / length, (end[1] - start[1]) / length)
    line = element("path", d=f"M{_at(start)}L{_at(end)}", stroke_width=_thickness(bundle), class_="edge")
    fraction = 0.34 + 0.34 * sources.index(bundle.source) / (len(sources) - 1) if len(sources) > 1 else 0.5
    middle = (start[0] + fraction * (end[0] - start[0]), start[1] + fraction * (end[1] - start[1]))
    return join([line, _head(end, unit)]), _badge(bundle, middle, kinds)


def _arc(bundle: _Bundle, places: Mapping[str, Place], kinds: Mapping[Kind, str]) -> tuple[Markup, Markup]:
    """Returns the arc from one learner to another, and its badge; arcs to the left are a little deeper than those to the right."""
    distance, depth = _distance(bundle, places), _depth(bundle, places)
    inset = math.copysign(4 + 16 / abs(distance), distance) + (3.0 if distance < 0 and not bundle.is_mutual else 0.0)
    top = places[bundle.source][1] + _HALF_HEIGHT + 2
    x1, x2 = places[bundle.source][0] + inset, places[bundle.learner][0] - inset
    bottom = top + depth * 4 / 3  # a cubic curve goes three quarters of the way to its control points
    bend = (x2 - x1) * 0.1
    points = [(x1, top), (x1 + bend, bottom), (x2 - bend, bottom), (x2, top)]
    curve = f"M{_at(points[0])}C{' '.join(map(_at, points[1:]))}"
    line = element("path", d=curve, stroke_width=_thickness(bundle), class_="edge")
    slope = math.hypot(bend, bottom - top)
    unit = (bend / slope, -(bottom - top) / slope)
    heads = [_head(points[3], unit)] + ([_head(points[0], (-unit[0], unit[1]))] if bundle.is_mutual else [])
    return join([line, *heads]), _badge(bundle, ((x1 + x2) / 2, top + depth), kinds)


def _at(point: Place) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"


def _distance(bundle: _Bundle, places: Mapping[str, Place]) -> int:
    """Returns how many places the learner is to the right of its source."""
    names = list(places)
    return names.index(bundle.learner) - names.index(bundle.source)


def _depth(bundle: _Bundle, places: Mapping[str, Place]) -> float:
    distance = _distance(bundle, places)
    return _ARC * abs(distance) + (_ARC / 2 if distance < 0 and not bundle.is_mutual else 0) + 6


def _thickness(bundle: _Bundle) -> float:
    """Returns the width of a line in pixels, larger for larger weights."""
    return min(6.0, 1 + math.log2(1 + sum(abs(weight) for *_, weight in bundle.kinds)))


def _head(tip: tuple[float, float], unit: tuple[float, float]) -> Markup:
    (x, y), (right, down) = tip, unit
    base = (x - 9 * right, y - 9 * down)
    points = [(x, y), (base[0] - 4.5 * down, base[1] + 4.5 * right), (base[0] + 4.5 * down, base[1] - 4.5 * right)]
    return element("polygon", points=" ".join(f"{px:.1f},{py:.1f}" for px, py in points), class_="head")


def _badge(bundle: _Bundle, at: tuple[float, float], kinds: Mapping[Kind, str]) -> Markup:
    text = "+".join(kinds[kind] for kind in bundle.kinds[:3]) + ("…" if len(bundle.kinds) > 3 else "")
    ends = (
        f"{bundle.learner} and {bundle.source} learn from each other"
        if bundle.is_mutual
        else f"{bundle.learner} learns from {bundle.source}"
    )
    said = f"{ends}: {', '.join(_kind_text(kind) for kind in bundle.kinds)}"
    half = 5.5 + 4.0 * len(text)
    box = element("rect", x=at[0] - half, y=at[1] - 9.5, width=2 * half, height=19.0, rx=9.5, class_="badge")
    written = element("text", text, x=at[0], y=at[1] + 4, text_anchor="middle", class_="badge-text")
    return element("g", element("title", said), box, written)


def _node(text: str, at: Place, style: str | None) -> Markup:
    shown = clip(text, 10)
    x, y = at
    half = max(20.0, 9 + 3.9 * len(shown))
    shape = {"x": x - half, "y": y - _HALF_HEIGHT, "width": 2 * half, "height": 2 * _HALF_HEIGHT}
    box = element("rect", rx=4.0 if style is None else _HALF_HEIGHT, class_="source" if style is None else f"node {style}", **shape)
    written = element("text", shown, x=x, y=y + 4.5, text_anchor="middle", class_="node-text")
    return element("g", element("title", text), box, written)


def _kind_text(kind: Kind) -> str:
    loss, at, weight = kind
    return f"{loss} of {at}, weight {weight:.4g}"


def _key(kinds: Mapping[Kind, str]) -> Markup:
    rows = [
        element("li", element("b", badge, class_="badge-key"), name(loss), " of ", name(at), f", weight {weight:.4g}")
        for (loss, at, weight), badge in kinds.items()
    ]
    return element("ul", *rows, class_="key")


def _as_table(edges: Sequence[EdgeFinding]) -> Markup:
    rows = [(name(edge.learner), name(edge.source), name(edge.loss), name(edge.at), f"{edge.weight:.4g}") for edge in edges]
    whole = table(("learner", "source", "loss", "at", "weight"), rows, caption="Edges: who learns what from whom", texts=4)
    return element("details", element("summary", f"All {len(edges)} edges as a table"), whole)
