"""Charts as SVG: lines over epochs, reliability; small ones side by side, so that their texts keep their size on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mutual.engine.report.findings import ReliabilityDiagram
from mutual.engine.report.pages.axes import BOTTOM, LEFT, RIGHT, TOP, Scale, frame, value_scale
from mutual.engine.report.pages.markup import Markup, clip, element, join, name
from mutual.engine.report.pages.numbers import finite, is_finite, metric_text

WIDTH, HEIGHT = 340.0, 216.0
MAX_POINTS = 240
"""Of a line; longer ones are thinned to it."""
_MAX_MARKED = 24  # points of a line that are marked and have a title


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: what it is.
        style: CSS class of its colour.
        points: x and y; where y is None or not finite the line is broken.
        band: x, lower and upper end of what is around it.
    """

    name: str
    style: str
    points: Sequence[tuple[float, float | None]]
    band: Sequence[tuple[float, float, float]] = ()


def figure(title: str, drawing: Markup, *, note: object = None, class_: str | None = None) -> Markup:
    """Returns a chart with its title, and a note below it."""
    caption = element("figcaption", element("strong", title), None if note is None else element("span", note))
    return element("figure", caption, drawing, class_=class_)


def charts(figures: Sequence[Markup | None]) -> Markup:
    """Returns charts side by side, as many as there is room for."""
    return element("div", *figures, class_="charts")


def line_chart(title: str, series: Sequence[Series], *, metric: str, x_label: str = "epoch", note: object = None) -> Markup | None:
    """Returns a chart of lines; None where there is nothing to draw."""
    series = [each for each in series if finite(y for _, y in each.points)]
    if not series:
        return None
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points] + [end for each in series for row in each.band for end in row[1:]]
    low, high = min(xs), max(xs)
    x = Scale(low, high if high > low else low + 1, LEFT, WIDTH - RIGHT)
    y = value_scale(finite(ys), HEIGHT - BOTTOM, TOP, metric=metric)
    drawn = [_band(each, x, y) for each in series] + [_line(each, x, y, metric, x_label) for each in series]
    if y.is_log:
        note = join([note, ", " if note else None, "log scale"])
    return figure(title, svg(frame(x, y, metric=metric, x_label=x_label), *drawn, label=_summary(title, series, metric)), note=note)


def reliability_chart(title: str, reliability: ReliabilityDiagram, style: str) -> Markup:
    """Returns accuracy against confidence in bins, and from each bar to its mean confidence the gap of a member that is not calibrated."""
    size = 232.0
    x, y = Scale(0, 1, LEFT, size - RIGHT), Scale(0, 1, size - BOTTOM, TOP)
    number, most = len(reliability.counts), max(1, *reliability.counts)
    drawn = []
    rows = zip(reliability.counts, reliability.confidences, reliability.accuracies, strict=True)
    for index, (count, confidence, accuracy) in enumerate(rows):
        if not count or confidence is None or accuracy is None:
            continue
        left, right, top, diagonal = x(index / number), x((index + 1) / number), y(accuracy), y(confidence)
        said = f"confidence {confidence:.1%}, {accuracy:.1%} right, {count} images"
        weight = round(0.2 + 0.65 * (count / most) ** 0.5, 2)  # a bin of few images says little
        shape = {"x": left + 1, "width": right - left - 2}
        drawn += [
            element("rect", element("title", said), y=top, height=y.start - top, class_=f"bar {style}", fill_opacity=str(weight), **shape),
            element("rect", y=min(top, diagonal), height=abs(top - diagonal), class_="gap", opacity=str(weight), **shape),
        ]
    drawn.append(element("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="diagonal"))
    ends = (0.0, 0.5, 1.0)
    axes = frame(x, y, metric="top1", x_label="confidence", x_ticks=ends, x_metric="top1")
    said = f"{title}: expected calibration error {reliability.ece:.4f}, NLL {reliability.nll:.4f}"
    note = f"ECE {reliability.ece:.4f} · NLL {reliability.nll:.4f}"
    return figure(title, svg(axes, *drawn, label=said, width=size, height=size), note=note, class_="small")


def svg(*children: object, label: str, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    """Returns a drawing that screen readers call `label`."""
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *children, viewBox=box, width=width, height=height, role="img", aria_label=label)


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Returns names with the lines of their style."""
    rows = [element("li", member_name(text, style)) for text, style in entries]
    return element("ul", *rows, class_="legend")


def member_name(text: str, style: str, *more: object) -> Markup:
    """Returns the name of a member behind a line of its style."""
    return element("span", swatch(style), name(text, max_length=40), *more, class_="member")


def swatch(style: str) -> Markup:
    """Returns a short line of this style, which says nothing to who cannot see it."""
    line = element("line", x1=1, x2=21, y1=5, y2=5, class_=f"line {style}")
    return element("svg", line, viewBox="0 0 22 10", width=22, height=10, aria_hidden="true", class_="swatch")


def thinned(points: Sequence[tuple[float, float | None]], number: int = MAX_POINTS) -> list[tuple[float, float | None]]:
    """Returns at most about `number` of the points, evenly spread, with the first and the last.

    Example:
        >>> thinned([(index, 0.0) for index in range(9)], 4)
        [(0, 0.0), (3, 0.0), (6, 0.0), (8, 0.0)]
    """
    step = max(1, -(-len(points) // max(1, number - 1)))
    kept = list(points[::step])
    return kept if not points or (len(points) - 1) % step == 0 else [*kept, points[-1]]


def _line(series: Series, x: Scale, y: Scale, metric: str, x_label: str) -> Markup:
    points = thinned(series.points)
    parts, pen = [], "M"
    for x_value, y_value in points:
        if not is_finite(y_value):
            pen = "M"
            continue
        parts.append(f"{pen}{x(x_value):.1f} {y(y_value):.1f}")
        pen = "L"
    path = element("path", element("title", series.name), d="".join(parts), class_=f"line {series.style}")
    marks = []
    shown = clip(series.name, 40)
    for x_value, y_value in thinned(points, _MAX_MARKED):
        if is_finite(y_value):
            said = f"{shown}, {x_label} {x_value:g}: {metric_text(metric, y_value)}"
            marks.append(element("circle", element("title", said), cx=x(x_value), cy=y(y_value), r=2.2))
    return join([path, element("g", *marks, class_=f"marks {series.style}")])


def _band(series: Series, x: Scale, y: Scale) -> Markup | None:
    if not series.band:
        return None
    step = max(1, -(-len(series.band) // MAX_POINTS))
    rows = list(series.band)[::step]
    upper = [f"{x(at):.1f},{y(high):.1f}" for at, _, high in rows]
    lower = [f"{x(at):.1f},{y(low):.1f}" for at, low, _ in reversed(rows)]
    return element("polygon", points=" ".join(upper + lower), class_=f"band {series.style}")


def _summary(title: str, series: Sequence[Series], metric: str) -> str:
    """Returns what a screen reader says of a chart: the last value of each line."""
    ends = [f"{clip(each.name, 40)} {metric_text(metric, finite(y for _, y in each.points)[-1])}" for each in series]
    return f"{title}; at the end {', '.join(ends)}"
