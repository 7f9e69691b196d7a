"""plot_curves: accuracy against epochs and against FLOPs, with bands over seeds, as PNG or SVG."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutual.engine.comparison.arms import ArmRuns
from mutual.engine.comparison.control_names import INDEPENDENT, LONGER, RANDOM, SAME, SMOOTHING, TOGETHER
from mutual.engine.comparison.curves import Curve, arm_curve, teacher_scores
from mutual.engine.comparison.metrics import is_accuracy, unit
from mutual.engine.comparison.result import ArmSummary, Comparison
from mutual.engine.storage import write_file
from mutual.recipe import InputError, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLACK = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Of Okabe and Ito, who are told apart by people who do not see all colours; their yellow is too light for lines."""
_MARKERS = ("", "o", "s", "^", "D", "v")
_DASHES = {
    INDEPENDENT: (0, (4, 2)),
    LONGER: (0, (7, 2, 1.5, 2)),
    TOGETHER: (0, (2, 1)),
    RANDOM: (0, (1, 1)),
    SMOOTHING: (0, (7, 2, 1.5, 2, 1.5, 2)),
    SAME: (0, (1, 2)),
}
_WIDTH, _HEIGHT = 9.0, 3.8  # inches, without the legend
_LEGEND_CHARACTERS = 110
"""That a row of the legend takes, at its font size."""
_BAND_POINTS = 50
"""A band has at most so many, lines have all: a file of many long curves stays small."""
_AXES = {
    "top1": "top-1 accuracy",
    "macro_top1": "mean accuracy of the classes",
    "map": "mean average precision",
    "nll": "NLL",
    "ece": "ECE",
}
_SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "mutual",  # equal curves give equal bytes
    "svg.fonttype": "path",
    "text.parse_math": False,  # a name may hold dollars
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class _Style:
    colour: str
    dashes: Any
    width: float
    marker: str


def plot_curves(arm_runs: Sequence[ArmRuns], comparison: Comparison, file: Path) -> None:
    """Draws the first metric of the comparison on the validation images, over the training of each arm, and writes it into `file`.

    Lines are means over the seeds, bands one standard deviation above and below; frozen peers are horizontal lines. The panel at the right
    has training FLOPs in place of epochs, for the arms whose FLOPs are known. Equal runs give an equal file, byte for byte.

    Raises:
        InputError: the file's name ends neither in .png nor in .svg, or no run was scored by that metric.
        OSError: it could not be written.
    """
    if file.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"--plot {printable(file)}: a plot is a .png or an .svg")
    metric = next(iter(comparison.arms[0].metrics))
    curves = [curve for runs in arm_runs if (curve := arm_curve(runs, metric)).epochs]
    if not curves:
        raise InputError(f"--plot {printable(file)}: no evaluation of these runs has {printable(metric)}")
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams.update(_SETTINGS)
        write_file(file, _draw(curves, teacher_scores(arm_runs, metric), comparison, metric, file.suffix.lower()[1:]))


def _draw(curves: Sequence[Curve], teachers: dict[str, float], comparison: Comparison, metric: str, kind: str) -> bytes:
    """Returns the picture as a PNG or an SVG."""
    from matplotlib.figure import Figure  # without pyplot: no state, and no display
    from matplotlib.ticker import MaxNLocator

    labels = [printable(name, max_length=70) for name in (*(curve.arm for curve in curves), *(f"{name} (frozen)" for name in teachers))]
    num_columns = max(1, min(4, _LEGEND_CHARACTERS // (max(map(len, labels)) + 8)))
    height = _HEIGHT + 0.19 * (1 + math.ceil(len(labels) / num_columns))
    has_flops = any(curve.flops for curve in curves)
    figure = Figure(figsize=(_WIDTH if has_flops else 0.7 * _WIDTH, height), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True) if has_flops else [figure.subplots()]
    styles = _styles(comparison.arms, comparison.baseline)
    by_epoch = {curve.arm: curve.epochs for curve in curves}
    handles = _draw_panel(panels[0], curves, by_epoch, styles, teachers, metric)
    panels[0].set_xlabel("epoch")
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    panels[0].set_ylabel(f"validation {_AXES.get(metric, metric)}" + (f" ({unit(metric)})" if unit(metric) else ""))
    panels[0].set_ylim(*_limits(curves, teachers, metric))
    if has_flops:
        _draw_flops(panels[1], curves, styles, teachers, metric)
    options: dict[str, Any] = {"loc": "outside lower center", "ncol": num_columns, "title": _title(curves), "handlelength": 3.4}
    legend = figure.legend(handles, ["-"] * len(handles), **options)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)  # set afterwards: a legend leaves out labels that begin with an underscore
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name may be in any script
        figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return file.getvalue()


def _title(curves: Sequence[Curve]) -> str:
    few, many = (choose(curve.num_seeds for curve in curves) for choose in (min, max))
    if many == 1:
        return "one seed"
    return f"mean over {many if few == many else f'{few} to {many}'} seeds; bands: ± 1 standard deviation"


def _styles(arms: Sequence[ArmSummary], baseline: str) -> dict[str, _Style]:
    """Returns by arm how it is drawn: the baseline black, each method in a colour, a control dashed, in the colour of its method."""
    styles = {baseline: _Style(BLACK, "-", 1.8, "")}
    for index, arm in enumerate(arm for arm in arms if arm.control is None and arm.name != baseline):
        styles[arm.name] = _Style(COLOURS[index % len(COLOURS)], "-", 1.8, _MARKERS[index // len(COLOURS) % len(_MARKERS)])
    for arm in arms:
        if arm.name not in styles:
            of = styles.get(next(iter(arm.control_of), baseline), styles[baseline])
            styles[arm.name] = _Style(of.colour, _DASHES.get(arm.control or "", (0, (3, 1))), 1.2, of.marker)
    return styles


def _draw_panel(
    axes: Axes,
    curves: Sequence[Curve],
    places: Mapping[str, Sequence[float]],
    styles: dict[str, _Style],
    teachers: dict[str, float],
    metric: str,
) -> list[Any]:
    """Draws curves over `places` and the teachers' lines; returns a handle of each for the legend."""
    scale = 100 if is_accuracy(metric) else 1
    handles = []
    for index, curve in enumerate(curves):
        style, x = styles[curve.arm], places[curve.arm]
        means = [scale * mean for mean in curve.means]
        if curve.num_seeds > 1:
            rows = list(zip(x, means, curve.stds, strict=True))
            rows = [*rows[: -1 : math.ceil(len(rows) / _BAND_POINTS)], rows[-1]]
            low, high = ([mean + sign * scale * std for _, mean, std in rows] for sign in (-1, 1))
            alpha = 0.16 if style.dashes == "-" else 0.08
            axes.fill_between([row[0] for row in rows], low, high, color=style.colour, alpha=alpha, linewidth=0)
        line: dict[str, Any] = {"color": style.colour, "linestyle": style.dashes, "linewidth": style.width}
        marks: dict[str, Any] = {
            "marker": style.marker,
            "markersize": 4.5,
            "markeredgecolor": "white",
            "markevery": (index, max(1, len(x) // 8)),
        }
        handles += axes.plot(x, means, **line, **marks)
        axes.plot(x if len(x) < 4 else x[-1:], means if len(x) < 4 else means[-1:], "o", color=style.colour, markersize=3.5)
    for index, value in enumerate(teachers.values()):
        grey = ("#444444", "#777777", "#999999")[index % 3]
        handles.append(axes.axhline(scale * value, color=grey, linestyle=(0, (1, 1.5 + index)), linewidth=1.6))
    return handles


def _draw_flops(axes: Axes, curves: Sequence[Curve], styles: dict[str, _Style], teachers: dict[str, float], metric: str) -> None:
    """Draws the panel of those arms whose FLOPs are known; logarithmic where one takes many times those of another."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    known = [curve for curve in curves if curve.flops]
    totals = [curve.flops[-1] for curve in known if curve.flops]
    exponent = min(18, max(0, 3 * int(math.log10(max(max(totals), 1.0)) // 3)))
    prefix = {0: "", 3: "K", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}[exponent]
    _draw_panel(
        axes, known, {curve.arm: [value / 10**exponent for value in curve.flops or ()] for curve in known}, styles, teachers, metric
    )
    if max(totals) > 8 * min(totals):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"training {prefix}FLOPs of a run" + ("" if len(known) == len(curves) else " (where they are known)"))


def _limits(curves: Sequence[Curve], teachers: dict[str, float], metric: str) -> tuple[float, float]:
    """Returns the ends of the axis: a steep beginning is left out, so that differences at the end are seen."""
    scale = 100 if is_accuracy(metric) else 1
    lows, highs = [], []
    for curve in curves:
        begin = math.ceil(len(curve.means) / 5) if len(curve.means) > 2 else 0
        points = [(mean, std) for mean, std in list(zip(curve.means, curve.stds, strict=True))[begin:] if math.isfinite(mean)]
        lows += [scale * (mean - std) for mean, std in points]
        highs += [scale * (mean + std) for mean, std in points]
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    for value in teachers.values():
        low, high = min(low, scale * value), max(high, scale * value)
    margin = 0.05 * (high - low) or 0.05 * scale
    return low - margin, high + margin
