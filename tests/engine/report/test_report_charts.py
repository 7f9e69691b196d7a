"""Scales, ticks, thinning, and lines that break where there is no number."""

import itertools
import math
import re

import pytest
from html_page import Page
from report_samples import findings, reliability

from mutual.engine.report import EdgeFinding
from mutual.engine.report.pages.axes import Scale, frame, log_ticks, ticks, value_scale
from mutual.engine.report.pages.charts import MAX_POINTS, Series, line_chart, reliability_chart, thinned
from mutual.engine.report.pages.edge_graph import edge_graph
from mutual.engine.report.pages.heat_map import heat_map
from mutual.engine.report.pages.legend import member_styles
from mutual.engine.report.pages.markup import clip, element
from mutual.engine.report.pages.numbers import bytes_text, count_text, p_text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.93, 0.97), (-0.1, 0.02), (1e-6, 3e-6), (0.0, 3e7)])
def test_ticks_are_round_and_within(low, high):
    found = ticks(low, high, 5)
    assert 3 <= len(found) <= 7
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)


@pytest.mark.parametrize(("low", "high"), [(0.02, 3.0), (0.9, 20.0), (1e-6, 1e6)])
def test_log_ticks_are_few_and_within(low, high):
    found = log_ticks(low, high, 5)
    assert 2 <= len(found) <= 6
    assert all(low <= value <= high for value in found)


@pytest.mark.parametrize("last", [1, 2, 4])
def test_epochs_are_whole(last):
    drawn = frame(Scale(1, max(2, last), 40, 300), Scale(0, 1, 100, 0), metric="top1", x_label="epoch")
    labels = re.findall(r">([^<]+)</text>", str(drawn))
    assert [each for each in labels if "%" not in each and each != "epoch"] == [str(each) for each in range(1, max(2, last) + 1)]


def test_a_scale_maps_its_ends_and_holds_what_is_outside():
    scale = Scale(1.0, 100.0, 0.0, 10.0, is_log=True)
    assert [round(scale(value), 6) for value in (0.0, 1.0, 10.0, 100.0, 1e9)] == [0, 0, 5, 10, 10]


@pytest.mark.parametrize(
    ("metric", "values", "is_log"),
    [
        ("top1", [0.01, 0.99], False),
        ("nll", [0.1, 0.9], False),
        ("nll", [0.1, 2.9], True),
        ("nll", [-0.1, 2.9], False),
        ("top1", [1.0], False),
    ],
)
def test_losses_that_span_much_are_drawn_as_logarithms(metric, values, is_log):
    scale = value_scale(values, 0, 100, metric=metric)
    assert scale.is_log is is_log
    assert scale.low <= min(values)
    assert scale.high >= max(values)
    if metric == "top1":
        assert 0 <= scale.low < scale.high <= 1


@pytest.mark.parametrize("metric", ["top1", "nll"])
def test_values_that_nobody_measured_have_axes(metric):
    """Of a damaged or a foreign file."""
    values = (0.0, 1.0, 5.0, -5.0, 1e16, 1e99, -1e308, 1e308, math.inf, math.nan, 5e-324, 1e-300, 10**400)
    for first, second in itertools.product(values, values):
        scale = value_scale([first, second], 0.0, 100.0, metric=metric)
        assert len(scale.ticks(5)) < 20
        assert "nan" not in frame(scale, scale, metric=metric, x_label="x")


def test_a_line_is_broken_where_there_is_no_number():
    points = [(1, 0.1), (2, None), (3, 0.3), (4, float("nan")), (5, 0.2)]
    (line,) = Page(line_chart("x", [Series("a", "c0", points)], metric="nll")).all("path")
    assert line["d"].count("M") == 3
    assert "L" not in line["d"]


def test_long_lines_are_thinned_with_their_ends_kept():
    points = [(epoch, epoch / 10_000) for epoch in range(10_000)]
    short = thinned(points)
    assert len(short) <= MAX_POINTS + 1
    assert (short[0], short[-1]) == (points[0], points[-1])
    (line,) = Page(line_chart("x", [Series("a", "c0", points)], metric="nll")).all("path")
    assert line["d"].count("L") <= MAX_POINTS


def test_bins_of_reliability_reach_their_accuracy():
    drawn = Page(reliability_chart("x", reliability(-0.2), "c0"))
    bars = drawn.all("rect", "bar")
    assert len(bars) == 9
    heights = [float(each["height"]) for each in bars]
    assert heights == sorted(heights)
    opacities = [float(each["fill-opacity"]) for each in bars]
    assert opacities == sorted(opacities)


def test_cells_of_a_heat_map_are_those_that_are_not_empty():
    drawn = Page(
        heat_map(
            ["a", "b"],
            ["c", "d"],
            [[0.0, 0.5], [None, 1.0]],
            label="x",
            row_axis="",
            column_axis="",
            high=1.0,
            text=str,
            title="{},{}".format,
        )
    )
    assert [data for tag, data in drawn.texts if tag == "title"][:2] == ["0,1", "1,1"]
    assert [each["class"] for each in drawn.all("rect")] == ["heat-frame", "h4", "h8"]


@pytest.mark.parametrize("num_peers", range(2, 9))
def test_no_two_badges_of_peers_meet(num_peers):
    peers = [f"p{index}" for index in range(num_peers)]
    edges = [EdgeFinding(first, second, "dml", "logits", 1.0) for first in peers for second in peers if first != second]
    badges = Page(edge_graph(edges, dict.fromkeys(peers, "c0"))).all("rect", "badge")
    assert len(badges) == num_peers * (num_peers - 1) / 2
    boxes = [tuple(float(each[name]) for name in ("x", "y", "width", "height")) for each in badges]
    for index, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, *_ in boxes[index + 1 :]:
            assert abs(x - other_x) >= width or abs(y - other_y) >= height


@pytest.mark.parametrize("num_peers", [2, 3, 8])
def test_what_is_drawn_is_within_the_drawing(num_peers):
    found = findings(peers=tuple("abcdefgh"[:num_peers]), teachers=("t1", "t2"))
    page = Page(edge_graph(found.edges, member_styles(found.members)))
    width, height = (float(page.all("svg")[0][name]) for name in ("width", "height"))
    for each in page.all("rect"):
        assert 0 <= float(each["x"]) <= width - float(each["width"])
        assert 0 <= float(each["y"]) <= height - float(each["height"])
    for each in page.all("path", "edge"):
        numbers = [float(value) for value in re.findall(r"-?[\d.]+", each["d"])]
        assert all(0 <= value <= width for value in numbers[::2])


def test_edges_of_both_directions_are_one_line_and_a_heavier_one_is_thicker():
    edges = [
        EdgeFinding("a", "b", "dml", "logits", 1.0),
        EdgeFinding("b", "a", "dml", "logits", 1.0),
        EdgeFinding("a", "c", "kd", "logits", 8.0),
        EdgeFinding("c", "a", "kd", "logits", 0.5),
    ]
    page = Page(edge_graph(edges, {}))
    widths = [float(each["stroke-width"]) for each in page.all("path", "edge")]
    assert len(widths) == 3
    assert max(widths) == widths[1]
    titles = [data for tag, data in page.texts if tag == "title"]
    assert "b and a learn from each other: dml of logits, weight 1" in titles


def test_each_member_has_a_look_of_its_own():
    found = findings(peers=tuple(f"p{index}" for index in range(20)), teachers=("t",))
    styles = member_styles(found.members)
    assert len(set(styles.values())) == len(styles) == 22


def test_text_is_escaped_and_markup_is_not():
    inner = element("b", "<i>&")
    assert element("p", inner, "<", None, title='"<') == '<p title="&quot;&lt;"><b>&lt;i&gt;&amp;</b>&lt;</p>'
    assert clip("a\nb", 10) == r"a\nb"


def test_numbers_are_short():
    assert [count_text(value) for value in (999, 1_000, 999_999, 12_345_678, 8.1e12, None)] == [
        "999",
        "1 k",
        "1 M",
        "12.3 M",
        "8.1 T",
        "\N{EN DASH}",
    ]
    assert [bytes_text(value) for value in (0.0, 1e9, None)] == ["0 B", "1 GB", "\N{EN DASH}"]
    assert [p_text(value) for value in (0.0001, 0.05, None)] == ["< 0.001", "0.050", "\N{EN DASH}"]
