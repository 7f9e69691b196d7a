"""The first screen of a run's page: which peer to ship and why, its key figures, what to type, what to beware of."""

from __future__ import annotations

import shlex

from mutual.engine.report.findings import Findings, MemberFindings
from mutual.engine.report.pages.charts import member_name
from mutual.engine.report.pages.markup import Markup, command_box, element, name, table
from mutual.engine.report.pages.numbers import NOTHING, count_text, is_finite, metric_label, metric_text
from mutual.recipe import ENSEMBLE, SPLIT_NAMES

_COLUMNS = ("top1", "macro_top1", "map", "knn_top1", "nll", "ece")


def result(findings: Findings, styles: dict[str, str]) -> Markup:
    """Returns the section that says what to do."""
    best = best_member(findings)
    head = element("h2", "Ship ", name(findings.best_peer), id="result")
    verdict = element(
        "div",
        head,
        element("p", findings.reason, class_="reason"),
        None if best is None else _tiles(findings, best),
        command_box("\n".join(_commands(findings, best))),
        class_="verdict",
    )
    return element("section", verdict, _warnings(findings), _members(findings, styles), aria_labelledby="result")


def best_member(findings: Findings) -> MemberFindings | None:
    """Returns what was found of the peer to ship."""
    return next((member for member in findings.members if member.name == findings.best_peer), None)


def _tiles(findings: Findings, best: MemberFindings) -> Markup:
    where = f"{findings.num_images} {SPLIT_NAMES[findings.split]} images"
    rows = _test_tiles(findings, best)
    rows += [
        (metric_label(metric), metric_text(metric, best.scores[metric]), where)
        for metric in ("top1", "map", "knn_top1")
        if metric in best.scores
    ]
    if "nll" in best.scores:
        scaled = None if best.scaled is None else f"{metric_text('nll', best.scaled.nll)} at temperature {best.temperature:.2f}"
        rows.append(("NLL, nats", metric_text("nll", best.scores["nll"]), scaled))
    if "ece" in best.scores:
        scaled = None if best.scaled is None else f"{metric_text('ece', best.scaled.ece)} at temperature {best.temperature:.2f}"
        rows.append(("calibration error (ECE)", metric_text("ece", best.scores["ece"]), scaled))
    rows.append(("parameters", count_text(best.num_parameters), best.model))
    if best.flops is not None:
        rows.append(("FLOPs of an image", count_text(best.flops), "one forward"))
    tiles = [
        element("div", element("dt", title), element("dd", value, None if more is None else element("small", more)))
        for title, value, more in rows
    ]
    return element("dl", *tiles, class_="tiles")


def _test_tiles(findings: Findings, best: MemberFindings) -> list[tuple[str, str, str | None]]:
    """Returns the scores on test images, which come first: they have chosen nothing. None where all scores are of these."""
    test = {} if findings.split == "test" else findings.test.get(best.name, {})
    number = None if findings.summary is None else findings.summary.images.get("test")
    where = "images that chose nothing" if number is None else f"{number} images that chose nothing"
    return [
        (f"test {metric_label(metric)}", metric_text(metric, test[metric]), where) for metric in ("top1", "map", "nll") if metric in test
    ]


def _commands(findings: Findings, best: MemberFindings | None) -> list[str]:
    folder, peer = shlex.quote(findings.folder), shlex.quote(findings.best_peer)
    scaling = f" --temperature {best.temperature:.4g}" if best is not None and best.temperature is not None else ""
    return [f"python -m mutual.export {folder} --peer {peer}{scaling}", f"python -m mutual.predict {folder} IMAGE ..."]


def _warnings(findings: Findings) -> Markup | None:
    if not findings.notes:
        return None
    return element("ul", *(element("li", each) for each in findings.notes), class_="warnings", aria_label="What to beware of")


def _members(findings: Findings, styles: dict[str, str]) -> Markup:
    metrics = [metric for metric in _COLUMNS if any(metric in member.scores for member in findings.members)]
    has_scaled = any(member.scaled is not None for member in findings.members)
    tested = [metric for metric in metrics if any(metric in row for row in findings.test.values()) and metric in ("top1", "map", "nll")]
    heads = ["member", "model", "parameters", "FLOPs", *map(metric_label, metrics)]
    heads += ["temperature", "NLL scaled"] if has_scaled else []
    heads += [f"test {metric_label(metric)}" for metric in tested]
    rows = []
    for member in findings.members:
        test = findings.test.get(member.name, {})
        cells: list[object] = [
            _title(findings, member, styles),
            name(member.model),
            count_text(member.num_parameters),
            count_text(member.flops),
        ]
        cells += [metric_text(metric, member.scores.get(metric)) for metric in metrics]
        if has_scaled:
            temperature = f"{member.temperature:.2f}" if is_finite(member.temperature) else NOTHING
            cells += [temperature, metric_text("nll", None if member.scaled is None else member.scaled.nll)]
        rows.append([*cells, *(metric_text(metric, test.get(metric)) for metric in tested)])
    caption = f"All members on {findings.num_images} {SPLIT_NAMES[findings.split]} images, by their best weights"
    if any(member.name == ENSEMBLE for member in findings.members):
        caption += "; the ensemble is the mean of the trained peers' probabilities"
    return table(heads, rows, caption=caption, texts=2)


def _title(findings: Findings, member: MemberFindings, styles: dict[str, str]) -> Markup:
    tag = "to ship" if member.name == findings.best_peer else "frozen" if member.is_frozen else None
    mark = None if tag is None else element("span", tag, class_="tag")
    return member_name(member.name, styles[member.name], " ", mark)
