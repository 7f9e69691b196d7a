"""How alike the members are: agreement and KL of each pair, fidelity to teachers, CKA of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mutual.engine.report.findings import Findings, PairFindings
from mutual.engine.report.pages.charts import Series, charts, legend, line_chart, member_name
from mutual.engine.report.pages.heat_map import heat_map
from mutual.engine.report.pages.markup import Markup, clip, element, join, name, table
from mutual.engine.report.pages.numbers import finite, metric_text
from mutual.recipe import ENSEMBLE

_MAX_CKA = 12  # pairs; 8 peers have 28


def pairs(findings: Findings, styles: Mapping[str, str]) -> list[object]:
    """Returns the matrices of agreement and KL by the weights of the report, and both over the epochs."""
    if not findings.pairs:
        return []
    members = [member.name for member in findings.members if any(member.name in (pair.first, pair.second) for pair in findings.pairs)]
    directed = _directed(findings.pairs)
    agreement = {(pair.first, pair.second): pair.agreement for pair in directed}
    kl = {(pair.first, pair.second): pair.kl for pair in directed}
    matrices = [
        _matrix("Agreement", members, agreement, "fraction of images for which both predict the same class"),
        _matrix("KL(column || row), nats", members, kl, "how far the row is from what the column says"),
    ]
    learners = [each for each in members if each in _trained(findings)]
    drawn: list[Markup | None] = []
    for each in learners if len(members) > 2 else learners[:1]:  # two agree with each other as much
        series = [
            Series(pair.second, styles[pair.second], sorted(pair.agreement_by_epoch.items())) for pair in directed if pair.first == each
        ]
        title = "agreement with the others" if len(members) > 2 else "agreement with the other"
        drawn.append(line_chart(f"{clip(each, 20)}: {title}", series, metric="agreement"))
    for each in learners:
        series = [Series(pair.second, styles[pair.second], sorted(pair.kl_by_epoch.items())) for pair in directed if pair.first == each]
        drawn.append(line_chart(f"KL(another || {clip(each, 20)})", series, metric="kl", note="nats"))
    over_epochs = [legend([(each, styles[each]) for each in members]), charts(drawn)] if any(drawn) else [_mean_over_epochs(findings)]
    return [element("div", *matrices, class_="charts"), *over_epochs]


def fidelity(findings: Findings, styles: Mapping[str, str]) -> list[object]:
    """Returns for each teacher how closely the learners follow it, beside how often they are right."""
    top1 = {member.name: member.scores.get("top1") for member in findings.members}
    content: list[object] = []
    rows: list[tuple[object, ...]] = []
    drawn = []
    for teacher in (member.name for member in findings.members if member.is_frozen):
        followed = [pair for pair in _directed(findings.pairs) if pair.second == teacher and pair.first in _trained(findings)]
        for pair in followed:
            title = member_name(pair.first, styles[pair.first])
            scores = (metric_text("top1", top1[pair.first]), metric_text("top1", top1[teacher]))
            rows.append((title, name(teacher), metric_text("agreement", pair.agreement), metric_text("kl", pair.kl), *scores))
        agreement = [Series(pair.first, styles[pair.first], sorted(pair.agreement_by_epoch.items())) for pair in followed]
        kl = [Series(pair.first, styles[pair.first], sorted(pair.kl_by_epoch.items())) for pair in followed]
        drawn += [
            line_chart(f"Agreement with {clip(teacher, 20)}", agreement, metric="agreement"),
            line_chart(f"KL({clip(teacher, 20)} || learner)", kl, metric="kl", note="nats"),
        ]
    if rows:
        heads = ("learner", "teacher", "agreement", "KL, nats", "learner's top-1", "teacher's top-1")
        content.append(table(heads, rows, caption="Fidelity to the teacher, beside accuracy", texts=2))
    return [*content, charts(drawn)] if any(drawn) else content


def features(findings: Findings) -> Markup | None:
    """Returns the CKA of the features of each pair: heat maps of their layers, or one of the members where each has one layer."""
    found = [pair for pair in findings.pairs if pair.cka]
    if len(found) > 1 and all(len(pair.cka) == 1 for pair in found):
        return _cka_of_members(findings, found)
    more = len(found) - _MAX_CKA
    left_out = element("p", f"{more} more pairs are left out.", class_="note") if more > 0 else None
    return join([charts([_cka(pair) for pair in found[:_MAX_CKA]]), left_out]) if found else None


def _trained(findings: Findings) -> set[str]:
    return {member.name for member in findings.members if not member.is_frozen and member.name != ENSEMBLE}


def _directed(found: Sequence[PairFindings]) -> list[PairFindings]:
    """Returns each pair in both orders."""
    return [each for pair in found for each in (pair, _turned(pair))]


def _turned(pair: PairFindings) -> PairFindings:
    return replace(pair, first=pair.second, second=pair.first, kl=pair.reverse_kl, kl_by_epoch=pair.reverse_kl_by_epoch)


def _matrix(title: str, members: Sequence[str], values: Mapping[tuple[str, str], float], note: str) -> Markup:
    rows = [[values.get((first, second)) for second in members] for first in members]
    high = max(finite(values.values()), default=1.0)
    is_fraction = title == "Agreement"
    drawn = heat_map(
        members,
        members,
        rows,
        label=f"{title} of each pair",
        row_axis="",
        column_axis="",
        high=1.0 if is_fraction else high,
        text=lambda value: f"{100 * value:.0f}" if is_fraction else f"{value:.2f}",
        title=lambda row, column: (
            f"{clip(members[row], 40)}, {clip(members[column], 40)}: "
            + metric_text("agreement" if is_fraction else "kl", rows[row][column])
        ),
    )
    shown = f"{title}, %" if is_fraction else title
    return element("figure", element("figcaption", element("strong", shown), element("span", note)), drawn)


def _mean_over_epochs(findings: Findings) -> Markup | None:
    """Returns the means over pairs, which is what runs of older versions have."""
    drawn = []
    for metric, title in (("agreement", "Mean agreement of pairs"), ("kl", "Mean KL of pairs, nats")):
        rows = [(row["epoch"], row.get("eval", {}).get("pairs", {}).get(metric)) for row in findings.history]
        points = [(epoch, value) for epoch, value in rows if value is not None]
        drawn.append(line_chart(title, [Series("mean over pairs", "of-none", points)], metric=metric))
    return charts(drawn) if any(drawn) else None


def _cka_of_members(findings: Findings, found: Sequence[PairFindings]) -> Markup:
    values: dict[tuple[str, str], float] = {}
    paths: dict[str, str] = {}
    for pair in found:
        (ends, value) = next(iter(pair.cka.items()))
        values[pair.first, pair.second] = values[pair.second, pair.first] = value
        paths.update(zip((pair.first, pair.second), ends, strict=True))
    members = [member.name for member in findings.members if member.name in paths]
    rows = [[values.get((first, second)) for second in members] for first in members]
    drawn = heat_map(
        members,
        members,
        rows,
        label="Linear CKA of features of each pair",
        row_axis="",
        column_axis="",
        high=1.0,
        text=lambda value: f"{value:.2f}",
        title=lambda row, column: (
            f"{members[row]} {paths[members[row]]} and {members[column]} {paths[members[column]]}: " + metric_text("cka", rows[row][column])
        ),
    )
    places = ", ".join(dict.fromkeys(clip(path, 40) for path in paths.values()))
    return element("figure", element("figcaption", element("strong", "CKA of each pair"), element("span", f"at {places}")), drawn)


def _cka(pair: PairFindings) -> Markup:
    rows, columns = (list(dict.fromkeys(key[side] for key in pair.cka)) for side in (0, 1))
    values = [[pair.cka.get((row, column)) for column in columns] for row in rows]
    title = f"{clip(pair.first, 20)} and {clip(pair.second, 20)}"
    drawn = heat_map(
        rows,
        columns,
        values,
        label=f"Linear CKA of features of {title}",
        row_axis=clip(pair.first, 20),
        column_axis=clip(pair.second, 20),
        high=1.0,
        text=lambda value: f"{value:.2f}",
        title=lambda row, column: f"{rows[row]} and {columns[column]}: {metric_text('cka', values[row][column])}",
    )
    return element("figure", element("figcaption", element("strong", title)), drawn)
