"""Axes: from values to pixels, round ticks, and the frame of a chart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mutual.engine.report.pages.markup import Markup, element, join
from mutual.engine.report.pages.numbers import FRACTIONS, finite

LEFT, TOP, BOTTOM, RIGHT = 46.0, 10.0, 34.0, 10.0
"""Pixels between the frame of a chart and its edge, where tick labels stand."""
_LEAST_LOG = 1e-11
"""No log scale begins below."""
_LOG_FROM = 12.0  # of positive values that span more, the logarithm is drawn


@dataclass(frozen=True)
class Scale:
    """From values in `low` .. `high` to pixels in `start` .. `end`.

    Attributes:
        low, high: values at the two ends; they differ.
        start, end: pixels there.
        is_log: whether equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Returns the pixel of `value`; what is outside is drawn at the nearest end."""
        low, high, value = (math.log(max(each, 1e-12)) if self.is_log else each for each in (self.low, self.high, value))
        fraction = (value - low) / (high - low)
        return self.start + min(1.0, max(0.0, fraction)) * (self.end - self.start)

    def ticks(self, number: int) -> list[float]:
        """Returns about `number` round values."""
        return log_ticks(self.low, self.high, number) if self.is_log else ticks(self.low, self.high, number)


def ticks(low: float, high: float, number: int) -> list[float]:
    """Returns about `number` round values between `low` and `high`.

    Example:
        >>> ticks(0.0, 12.0, 6)
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    """
    step = round_step((high - low) / number)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float, number: int) -> list[float]:
    """Returns 1, 2 and 5 times powers of ten between `low` and `high`, powers alone where these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(values) <= number + 1:
            return values
    return values[:: math.ceil(len(values) / number)]


def round_step(step: float) -> float:
    """Returns the number 1, 2 or 5 times a power of ten that is next to `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2, 5, 10) if step / power <= factor * 1.001)


def value_scale(values: Iterable[float], start: float, end: float, *, metric: str) -> Scale:
    """Returns a scale for the values of `metric`: with some room, a fraction's within 0 .. 1, a log scale where a loss spans much."""
    shown = finite(values) or [0.0, 1.0]
    if metric in FRACTIONS:  # of a damaged file, others are possible
        shown = [min(max(value, 0.0), 1.0) for value in shown]
    low, high = min(shown), max(shown)
    if metric not in FRACTIONS and low > _LEAST_LOG and high / low > _LOG_FROM:
        return Scale(low / 1.15, high * 1.15, start, end, is_log=True)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 0.5
    low, high = (low - room if low < 0 or low > room else 0.0), high + room
    if metric in FRACTIONS:
        low, high = max(0.0, low), min(1.0, high)
        low, high = (low, high) if high > low else (max(0.0, low - 0.05), min(1.0, high + 0.05))
    return Scale(low, high, start, end)


def tick_text(value: float, *, step: float, metric: str) -> str:
    """Returns a tick's label with the digits that tell it from its neighbours."""
    if metric in FRACTIONS:
        return f"{100 * value:.{_decimals(100 * step)}f} %"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.{_decimals(step)}f}" if step else f"{value:g}"


def frame(x: Scale, y: Scale, *, metric: str, x_label: str, x_ticks: Iterable[float] | None = None, x_metric: str = "") -> Markup:
    """Returns grid lines, tick labels, and what the x axis is."""
    y_ticks = y.ticks(5)
    y_step = 0.0 if y.is_log else _step(y_ticks)
    drawn = []
    for value in y_ticks:
        drawn.append(element("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), class_="grid"))
        label = tick_text(value, step=y_step, metric=metric)
        drawn.append(element("text", label, x=x.start - 6, y=y(value) + 4, text_anchor="end", class_="tick"))
    chosen = [value for value in x.ticks(6) if value.is_integer()] if x_ticks is None else list(x_ticks)  # there is no half epoch
    for value in chosen:
        label = tick_text(value, step=_step(chosen), metric=x_metric)
        drawn.append(element("text", label, x=x(value), y=y.start + 15, text_anchor="middle", class_="tick"))
    drawn.append(element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    drawn.append(element("text", x_label, x=(x.start + x.end) / 2, y=y.start + 29, text_anchor="middle", class_="label"))
    return join(drawn)


def _step(values: list[float]) -> float:
    return values[1] - values[0] if len(values) > 1 else abs(values[0]) if values and values[0] else 1.0


def _decimals(step: float) -> int:
    return min(6, max(0, -math.floor(math.log10(step) + 1e-9)))
