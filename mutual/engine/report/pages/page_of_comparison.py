"""The page of a comparison: what it shows in words, then arms, differences, seeds, curves, and what cannot be claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from mutual.engine.comparison import ArmSummary, Comparison, Difference
from mutual.engine.report.pages.charts import Series, charts, legend, line_chart, member_name
from mutual.engine.report.pages.comparison_charts import forest_plot, seed_chart
from mutual.engine.report.pages.document import document, section
from mutual.engine.report.pages.legend import styles_of
from mutual.engine.report.pages.markup import Markup, clip, command_box, element, folded, join, name, table
from mutual.engine.report.pages.numbers import NOTHING, count_text, difference_text, metric_label, metric_text, p_text, spread_text, unit_of
from mutual.engine.report.pages.verdicts import headline, sentences
from mutual.recipe import SPLIT_NAMES

Curves = Mapping[str, Mapping[str, Sequence[tuple[float, Sequence[float]]]]]
"""By arm and metric: an epoch and the values of its runs."""

_DIFFERENCES = (
    "Arm minus baseline, paired by seed. The interval is Student's t of 95 %; p is of the exact sign-flip test, and Holm's correction is "
    "over the arms that were tested."
)
_SEEDS = "A dot is a run, a thin line joins runs of the same seed, a bar is the mean."
_CURVES = "Validation scores over the epochs: mean over the seeds, and one standard deviation to both sides."


def comparison_page(comparison: Comparison, *, curves: Curves | None = None, links: Mapping[str, Mapping[int, str]] | None = None) -> str:
    """Returns the report of a comparison as one HTML file.

    Args:
        comparison: what was found.
        curves: of the runs whose folders are there.
        links: by arm and seed the address of the report of that run, relative to this page.
    """
    styles = styles_of([arm.name for arm in comparison.arms])
    metrics = list(dict.fromkeys(metric for arm in comparison.arms for metric in arm.metrics))
    sections: list[tuple[str, str, Markup | None]] = [
        ("result", "Result", _result(comparison)),
        ("arms", "Arms", section("arms", "Arms", _arms(comparison, metrics, styles))),
        (
            "differences",
            "Differences",
            section("differences", "Differences", *_differences(comparison, metrics, styles), note=_DIFFERENCES),
        ),
        ("seeds", "Seeds", section("seeds", "Values per seed", *_seeds(comparison, metrics, styles), note=_SEEDS)),
        ("curves", "Curves", section("curves", "Curves", *_curves(curves or {}, styles), note=_CURVES)),
        ("runs", "Runs", section("runs", "Runs", *_runs(comparison, metrics, links or {}))),
        (
            "command",
            "Command",
            section("command", "The command line that makes it", command_box(comparison.command)),
        ),
    ]
    scored = f"{SPLIT_NAMES[comparison.split]} images, {comparison.epoch} weights of each run"
    subtitle = (
        f"{len(comparison.arms)} arms, {len(comparison.seeds)} seeds ({', '.join(map(str, comparison.seeds[:20]))}), scored on {scored}"
    )
    return document(f"Comparison {comparison.name}", subtitle, sections)


def _result(comparison: Comparison) -> Markup:
    found = [element("li", sentence) for sentence in sentences(comparison)]
    verdict = element(
        "div",
        element("h2", headline(comparison), id="result"),
        element("ul", *found, class_="findings") if found else None,
        class_="verdict",
    )
    said = list(comparison.notes)
    if comparison.is_optimistic:
        said.insert(0, "The best epoch was chosen on the images that are scored: all values are a little optimistic.")
    notes = element("ul", *(element("li", each) for each in said), class_="warnings", aria_label="What to beware of") if said else None
    return element("section", verdict, notes, aria_labelledby="result")


def _arms(comparison: Comparison, metrics: Sequence[str], styles: Mapping[str, str]) -> Markup:
    heads: list[object] = ["arm", "what it is", "scores of", "seeds"]
    heads += [join([metric_label(metric), element("br"), "mean \N{PLUS-MINUS SIGN} std"]) for metric in metrics]
    heads += ["epochs", "images seen", "FLOPs of a training"]
    rows = []
    for arm in comparison.arms:
        tag = "baseline" if arm.name == comparison.baseline else None if arm.control is None else f"control: {clip(arm.control, 20)}"
        title = member_name(arm.name, styles[arm.name], " ", None if tag is None else element("span", tag, class_="tag"))
        said = " ".join(filter(None, (arm.note, f"FLOPs: {arm.flops_note}" if arm.flops_note else "")))
        scores = [_mean_text(arm, metric) for metric in metrics]
        rows.append(
            (
                title,
                element("span", said, class_="said"),
                name(arm.member),
                str(len(arm.runs)),
                *scores,
                str(arm.epochs),
                count_text(arm.images or None),
                count_text(arm.flops),
            )
        )
    return table(heads, rows, caption="Mean and standard deviation over the seeds; of accuracies the deviation is in points", texts=3)


def _mean_text(arm: ArmSummary, metric: str) -> str:
    found = arm.metrics.get(metric)
    if found is None:
        return NOTHING
    return metric_text(metric, found.mean) + ("" if found.std is None else f" \N{PLUS-MINUS SIGN} {spread_text(metric, found.std)}")


def _differences(comparison: Comparison, metrics: Sequence[str], styles: Mapping[str, str]) -> list[object]:
    if not comparison.differences:
        return []
    plots = [
        forest_plot(metric, [each for each in comparison.differences if (each.metric, each.baseline) == (metric, baseline)], styles)
        for baseline in dict.fromkeys(each.baseline for each in comparison.differences)
        for metric in metrics
    ]
    rows = [
        (
            name(each.arm, max_length=40),
            name(each.baseline, max_length=40),
            metric_label(each.metric) + unit_of(each.metric).replace(" ", ", "),
            _verdict(each),
            str(each.num_pairs),
            difference_text(each.metric, each.mean),
            interval_text(each),
            p_text(each.p_sign_flip),
            p_text(each.p_holm),
        )
        for each in comparison.differences
    ]
    heads = ("arm", "baseline", "metric", "verdict", "pairs", "difference", "95 % interval", "p", "p, Holm")
    return [charts(plots), table(heads, rows, caption="Differences, paired by seed", texts=4)]


def interval_text(difference: Difference) -> str:
    """Returns the interval of a difference, in the unit of its mean."""
    if difference.interval is None:
        return NOTHING
    low, high = (difference_text(difference.metric, end) for end in difference.interval)
    return f"{low} .. {high}"


def _verdict(difference: Difference) -> Markup:
    return element("span", difference.verdict, class_={"better": "good", "worse": "bad"}.get(difference.verdict))


def _seeds(comparison: Comparison, metrics: Sequence[str], styles: Mapping[str, str]) -> list[object]:
    drawn = [seed_chart(metric, comparison.arms, styles) for metric in metrics]
    return [charts(drawn)] if any(drawn) else []


def _curves(curves: Curves, styles: Mapping[str, str]) -> list[object]:
    metrics = list(dict.fromkeys(metric for by_metric in curves.values() for metric in by_metric))
    drawn = []
    for metric in metrics:
        series = [_mean_series(arm, styles[arm], by_metric[metric]) for arm, by_metric in curves.items() if metric in by_metric]
        drawn.append(line_chart(f"Validation {metric_label(metric)}", series, metric=metric))
    return [legend([(arm, styles[arm]) for arm in curves]), charts(drawn)] if any(drawn) else []


def _mean_series(arm: str, style: str, rows: Sequence[tuple[float, Sequence[float]]]) -> Series:
    points: list[tuple[float, float | None]] = []
    band = []
    for epoch, values in rows:
        mean = fmean(values)
        points.append((epoch, mean))
        if len(values) > 1:
            std = stdev(values)
            band.append((epoch, mean - std, mean + std))
    return Series(arm, style, points, band)


def _runs(comparison: Comparison, metrics: Sequence[str], links: Mapping[str, Mapping[int, str]]) -> list[object]:
    rows = []
    for arm in comparison.arms:
        for seed, folder in sorted(arm.runs.items()):
            link = links.get(arm.name, {}).get(seed)
            report = (
                NOTHING if link is None else element("a", "report", href=link, aria_label=f"Report of {clip(arm.name, 40)}, seed {seed}")
            )
            values = [metric_text(metric, arm.metrics[metric].values.get(seed)) if metric in arm.metrics else NOTHING for metric in metrics]
            rows.append((name(arm.name, max_length=40), name(folder), report, str(seed), *values))
    whole = table(("arm", "run folder", "report", "seed", *map(metric_label, metrics)), rows, caption="Every run", texts=3)
    return [folded(f"All {len(rows)} runs", whole)] if rows else []
