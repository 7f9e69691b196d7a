"""Charts of a comparison: differences with their intervals, and the values of every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mutual.engine.comparison import ArmSummary, Difference, is_lower_better
from mutual.engine.report.pages.axes import LEFT, RIGHT, TOP, Scale, tick_text, value_scale
from mutual.engine.report.pages.charts import WIDTH, figure, svg
from mutual.engine.report.pages.markup import Markup, clip, element, scroll_box, short_names
from mutual.engine.report.pages.numbers import FRACTIONS, difference_text, finite, is_finite, metric_label, metric_text, unit_of

_ROW = 26.0
_COLUMN = 62.0  # pixels for an arm
_HEIGHT = 190.0


def forest_plot(metric: str, differences: Sequence[Difference], styles: Mapping[str, str]) -> Markup | None:
    """Returns the mean difference of each arm with its interval beside the line of no difference; None where there is nothing to draw."""
    shown = [each for each in differences if is_finite(each.mean)]
    if not shown:
        return None
    names = short_names([each.arm for each in shown], 22)
    ends = [0.0, *finite([end for each in shown for end in (each.mean, *(each.interval or ()))])]
    room = 0.08 * (max(ends) - min(ends)) or 1e-3
    left = 12 + 6.4 * max(map(len, names))
    x = Scale(min(ends) - room, max(ends) + room, left, WIDTH - RIGHT)
    bottom = TOP + _ROW * len(shown)
    values = x.ticks(4)
    step = values[1] - values[0] if len(values) > 1 else 0.0
    drawn = []
    for value in values:
        label = tick_text(value, step=step, metric=metric).removesuffix(" %")
        drawn.append(element("line", x1=x(value), x2=x(value), y1=TOP, y2=bottom, class_="grid"))
        drawn.append(element("text", label, x=x(value), y=bottom + 15, text_anchor="middle", class_="tick"))
    drawn.append(element("line", x1=x(0), x2=x(0), y1=TOP - 4, y2=bottom + 3, class_="zero"))
    for index, (each, label) in enumerate(zip(shown, names, strict=True)):
        drawn += _difference(each, label, x, TOP + (index + 0.5) * _ROW, styles.get(each.arm, "ensemble"))
    better = "lower is better" if is_lower_better(metric) else "higher is better"
    unit = unit_of(metric).strip()
    axis = f"difference{', ' if unit else ''}{unit}"
    drawn.append(element("text", axis, x=(left + WIDTH) / 2, y=bottom + 30, text_anchor="middle", class_="label"))
    said = "; ".join(f"{clip(each.arm, 40)} {difference_text(metric, each.mean)}" for each in shown)
    title = f"{metric_label(metric)} against {clip(shown[0].baseline, 20)}"
    return figure(title, svg(*drawn, label=f"{title}: {said}", height=bottom + 36), note=better)


def seed_chart(metric: str, arms: Sequence[ArmSummary], styles: Mapping[str, str]) -> Markup | None:
    """Returns the values of all arms, a dot for each seed, those of the same seed joined; None where there is nothing to draw."""
    shown = [arm for arm in arms if metric in arm.metrics and finite(arm.metrics[metric].values.values())]
    if not shown:
        return None
    width = max(WIDTH, LEFT + RIGHT + _COLUMN * len(shown))
    step = (width - LEFT - RIGHT) / len(shown)
    names = short_names([arm.name for arm in shown], 22)
    is_flat = all(6.4 * len(each) < step - 4 for each in names)
    y = value_scale([value for arm in shown for value in finite(arm.metrics[metric].values.values())], _HEIGHT, TOP, metric=metric)
    bottom = 22.0 if is_flat else 16 + 6.4 * max(map(len, names))
    drawn = [_grid(y, width, metric)]
    at = [LEFT + (index + 0.5) * step for index in range(len(shown))]
    for seed in sorted({seed for arm in shown for seed in arm.metrics[metric].values}):
        points = [(x, arm.metrics[metric].values.get(seed)) for x, arm in zip(at, shown, strict=True)]
        joined = [f"{x:.1f},{y(value):.1f}" for x, value in points if is_finite(value)]
        drawn.append(element("polyline", points=" ".join(joined), fill="none", class_="pair"))
    for x, arm, label in zip(at, shown, names, strict=True):
        drawn += [_arm(metric, arm, x, y, styles[arm.name]), _arm_name(label, arm.name, x, is_flat=is_flat)]
    said = ", ".join(f"{clip(arm.name, 40)} {metric_text(metric, arm.metrics[metric].mean)}" for arm in shown)
    drawing = svg(*drawn, label=f"{metric_label(metric)} of each seed; means {said}", width=width, height=_HEIGHT + bottom)
    return figure(metric_label(metric), drawing if width == WIDTH else scroll_box(drawing, label=f"{metric_label(metric)} of each seed"))


def _difference(difference: Difference, label: str, x: Scale, y: float, style: str) -> list[Markup]:
    said = f"{clip(difference.arm, 40)}: {difference_text(difference.metric, difference.mean)}, {difference.verdict}"
    drawn = [element("text", element("title", difference.arm), label, x=x.start - 8, y=y + 4, text_anchor="end", class_="tick")]
    if difference.interval is not None:
        low, high = difference.interval
        said += f", 95 % interval {difference_text(difference.metric, low)} .. {difference_text(difference.metric, high)}"
        drawn.append(element("line", element("title", said), x1=x(low), x2=x(high), y1=y, y2=y, class_=f"interval {style}"))
    if is_finite(difference.mean):
        drawn.append(element("g", element("circle", element("title", said), cx=x(difference.mean), cy=y, r=4.5), class_=f"marks {style}"))
    return drawn


def _grid(y: Scale, width: float, metric: str) -> Markup:
    values = y.ticks(4)
    step = values[1] - values[0] if len(values) > 1 else (0.01 if metric in FRACTIONS else 0.0)
    drawn = []
    for value in values:
        drawn.append(element("line", x1=LEFT, x2=width - RIGHT, y1=y(value), y2=y(value), class_="grid"))
        label = tick_text(value, step=step, metric=metric)
        drawn.append(element("text", label, x=LEFT - 6, y=y(value) + 4, text_anchor="end", class_="tick"))
    return element("g", *drawn)


def _arm(metric: str, arm: ArmSummary, x: float, y: Scale, style: str) -> Markup:
    found = arm.metrics[metric]
    dots = [
        element("circle", element("title", f"{clip(arm.name, 40)}, seed {seed}: {metric_text(metric, value)}"), cx=x, cy=y(value), r=3.2)
        for seed, value in found.values.items()
        if is_finite(value)
    ]
    mean = (
        element("line", x1=x - 11, x2=x + 11, y1=y(found.mean), y2=y(found.mean), class_=f"mean {style}") if is_finite(found.mean) else None
    )
    return element("g", mean, element("g", *dots, class_=f"marks {style}"))


def _arm_name(label: str, whole: str, x: float, *, is_flat: bool) -> Markup:
    title = element("title", whole)
    if is_flat:
        return element("text", title, label, x=x, y=_HEIGHT + 16, text_anchor="middle", class_="tick")
    turn = f"rotate(-90 {x + 4:.1f} {_HEIGHT + 8:.1f})"
    return element("text", title, label, x=x + 4, y=_HEIGHT + 8, text_anchor="end", transform=turn, class_="tick")
