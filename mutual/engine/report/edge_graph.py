"""The graph of edges: learners in a row, what teaches them from above, what they learn from each other as arcs below.

The badge of an arc stands at its lowest point. Two pairs of places with the same middle are not equally far apart, and arcs are as deep
as their ends are far apart, so that no two badges meet, whatever the number of learners.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mutual.engine.report.charts import svg
from mutual.engine.report.findings import EdgeFinding
from mutual.engine.report.markup import Markup, clip, element, join, name, scroll_box, table

_STEP, _ROW, _RADIUS = 96.0, 128.0, 26.0
_ARC = 30.0  # pixels that an arc is deeper for each place between its ends
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LABELS = "labels"

Kind = tuple[str, str, float]
"""Loss, what it reads, and weight: what the badges stand for."""


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
    places = {each: ((index + 0.5) * width / len(learners), _ROW + 44.0) for index, each in enumerate(learners)}
    above = {each: ((index + 0.5) * width / len(sources), 34.0) for index, each in enumerate(sources)}
    down = [_straight(bundle, above, places, sources, kinds) for bundle in _bundles(edges) if bundle.source in above]
    arcs = [_arc(bundle, places, kinds) for bundle in _bundles(edges) if bundle.source in places]
    nodes = [_node(each, at, styles.get(each)) for each, at in {**above, **places}.items()]
    depth = max((_depth(bundle, places) for bundle in _bundles(edges) if bundle.source in places), default=0.0)
    height = _ROW + 44 + _RADIUS + depth + 22
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
    above: Mapping[str, tuple[float, float]],
    places: Mapping[str, tuple[float, float]],
    sources: Sequence[str],
    kinds: Mapping[Kind, str],
) -> tuple[Markup, Markup]:
    """Returns the arrow from a source above to a learner, and its badge, on a height of the source's own."""
    (x1, y1), (x2, y2) = above[bundle.source], places[bundle.learner]
    length = math.hypot(x2 - x1, y2 - y1)
    unit = ((x2 - x1) / length, (y2 - y1) / length)
    start = (x1, y1 + 17)
    end = (x2 - unit[0] * (_RADIUS + 7), y2 - unit[1] * (_RADIUS + 7))
    line = element("path", d=f"M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}", stroke_width=_thickness(bundle), class_="edge")
    fraction = 0.34 + 0.34 * (sources.index(bundle.source) / max(1, len(sources) - 1))
    middle = (start[0] + fraction * (end[0] - start[0]), start[1] + fraction * (end[1] - start[1]))
    return join([line, _head(end, unit)]), _badge(bundle, middle, kinds)


def _arc(bundle: _Bundle, places: Mapping[str, tuple[float, float]], kinds: Mapping[Kind, str]) -> tuple[Markup, Markup]:
    """Returns the arc from one learner to another, and its badge; to the left a little deeper than to the right."""
    (x1, y1), (x2, _) = places[bundle.source], places[bundle.learner]
    depth = _depth(bundle, places)
    inset = 9.0 if x2 > x1 else -9.0
    x1, x2, top = x1 + inset, x2 - inset, y1 + _RADIUS + 2
    bottom = top + depth * 4 / 3  # a cubic curve goes three quarters of the way to its control points
    bend = (x2 - x1) * 0.12
    line = element(
        "path",
        d=f"M{x1:.1f} {top:.1f}C{x1 + bend:.1f} {bottom:.1f} {x2 - bend:.1f} {bottom:.1f} {x2:.1f} {top:.1f}",
        stroke_width=_thickness(bundle),
        class_="edge",
    )
    slope = math.hypot(bend, bottom - top)
    unit = (bend / slope, -(bottom - top) / slope)
    heads = [_head((x2, top), unit)] + ([_head((x1, top), (-unit[0], unit[1]))] if bundle.is_mutual else [])
    return join([line, *heads]), _badge(bundle, ((x1 + x2) / 2, top + depth), kinds)


def _depth(bundle: _Bundle, places: Mapping[str, tuple[float, float]]) -> float:
    names = list(places)
    distance = names.index(bundle.learner) - names.index(bundle.source)
    return _ARC * abs(distance) + (_ARC / 2 if distance < 0 and not bundle.is_mutual else 0) + 6


def _thickness(bundle: _Bundle) -> float:
    """Returns the width of a line: 1 pixel at a weight of 0, and one more for each doubling from 1 on."""
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


def _node(text: str, at: tuple[float, float], style: str | None) -> Markup:
    shown = clip(text, 11 if style is None else 8)
    x, y = at
    title = element("title", text)
    written = element("text", shown, x=x, y=y + 4, text_anchor="middle", class_="node-text")
    if style is None:
        half = 10 + 3.6 * len(shown)
        return element("g", title, element("rect", x=x - half, y=y - 15, width=2 * half, height=30.0, rx=4.0, class_="source"), written)
    return element("g", title, element("circle", cx=x, cy=y, r=_RADIUS, class_=f"node {style}"), written)


def _kind_text(kind: Kind) -> str:
    loss, at, weight = kind
    return f"{loss} of {at}, weight {weight:g}"


def _key(kinds: Mapping[Kind, str]) -> Markup:
    rows = [
        element("li", element("b", badge, class_="badge-key"), name(loss), " of ", name(at), f" × {weight:g}")
        for (loss, at, weight), badge in kinds.items()
    ]
    return element("ul", *rows, class_="key")


def _as_table(edges: Sequence[EdgeFinding]) -> Markup:
    rows = [(name(edge.learner), name(edge.source), name(edge.loss), name(edge.at), f"{edge.weight:g}") for edge in edges]
    whole = table(("learner", "source", "loss", "at", "weight"), rows, caption="Edges: who learns what from whom", texts=4)
    return element("details", element("summary", f"All {len(edges)} edges as a table"), whole)
