"""Heat maps: confusion, agreement, CKA; a table to the eye, with a title for each cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mutual.engine.report.pages.charts import svg
from mutual.engine.report.pages.markup import Markup, clip, element, scroll_box
from mutual.engine.report.pages.numbers import is_finite

_MAX_LABELLED = 40  # rows; of more, names stand in the titles of the cells alone
_NUM_LEVELS = 8
_CHARACTER = 6.9  # pixels of a letter, about


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    label: str,
    row_axis: str,
    column_axis: str,
    high: float,
    text: Callable[[float], str],
    title: Callable[[int, int], str],
) -> Markup:
    """Returns the drawing; a cell whose value is 0 or None stays empty.

    Args:
        rows: their names.
        columns: their names.
        values: `[rows][columns]`, at least 0.
        label: what it is, for screen readers.
        row_axis: what the rows are.
        column_axis: what the columns are.
        high: the value that is drawn darkest; larger ones are drawn so, too.
        text: what is written into a cell, where there is room.
        title: what is said of a cell by its indices.
    """
    number = max(len(rows), len(columns), 1)
    has_names = number <= _MAX_LABELLED
    side = 34.0 if number <= 10 else 24.0 if number <= 16 else max(3.0, 14.0 if has_names else 520.0 / number)
    names = [[clip(each, 14) for each in side_names] if has_names else [] for side_names in (rows, columns)]
    left, bottom = (22.0 + _CHARACTER * max((len(each) for each in side_names), default=0) for side_names in names)
    is_flat = all(len(each) * _CHARACTER < side - 2 for each in names[1])  # else they are written upwards
    bottom = 36.0 if is_flat and has_names else bottom
    grid_width, grid_height = side * len(columns), side * len(rows)
    bottom -= 0 if column_axis else 12
    drawn = [element("rect", x=left, y=4.0, width=grid_width, height=grid_height, class_="heat-frame")]
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if is_finite(value) and value != 0:
                place = (left + column * side, 4.0 + row * side)
                drawn.append(_cell(place, side, value / high if high else 0.0, text(value), title(row, column)))
    for index, each in enumerate(names[0]):
        y = 4.0 + (index + 0.5) * side + 4
        drawn.append(element("text", element("title", rows[index]), each, x=left - 5, y=y, text_anchor="end", class_="tick"))
    for index, each in enumerate(names[1]):
        drawn.append(_column_name(each, columns[index], left + (index + 0.5) * side, 4.0 + grid_height + 14, is_flat=is_flat))
    middle = 4.0 + grid_height / 2
    drawn.append(element("text", column_axis, x=left + grid_width / 2, y=grid_height + bottom, text_anchor="middle", class_="label"))
    turn = f"rotate(-90 11 {middle:.1f})"
    drawn.append(element("text", row_axis, x=11.0, y=middle, text_anchor="middle", transform=turn, class_="label"))
    return scroll_box(svg(*drawn, label=label, width=left + grid_width + 4, height=grid_height + bottom + 8), label=label)


def _cell(place: tuple[float, float], side: float, fraction: float, text: str, title: str) -> Markup:
    level = min(_NUM_LEVELS, max(1, round(fraction * _NUM_LEVELS)))
    x, y = place
    gap = 1.0 if side >= 10 else 0.0
    shape = {"x": x + gap / 2, "y": y + gap / 2, "width": side - gap, "height": side - gap}
    if len(text) * _CHARACTER > side:
        return element("rect", element("title", title), class_=f"h{level}", **shape)
    box = element("rect", class_=f"h{level}", **shape)
    written = element("text", text, x=x + side / 2, y=y + side / 2 + 4, text_anchor="middle", class_=f"t{level}")
    return element("g", element("title", title), box, written)


def _column_name(shown: str, whole: str, x: float, y: float, *, is_flat: bool) -> Markup:
    title = element("title", whole)
    if is_flat:
        return element("text", title, shown, x=x, y=y, text_anchor="middle", class_="tick")
    x, y = x + 4, y - 8
    return element("text", title, shown, x=x, y=y, text_anchor="end", transform=f"rotate(-90 {x:.1f} {y:.1f})", class_="tick")
