"""How a run's members are right and wrong: calibration, confusion, classes, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from mutual.engine.report.findings import Findings, ImageFinding, MemberFindings
from mutual.engine.report.pages.charts import legend, member_name, reliability_chart
from mutual.engine.report.pages.heat_map import heat_map
from mutual.engine.report.pages.markup import Markup, clip, element, folded, join, name, table
from mutual.engine.report.pages.numbers import metric_text

_MAX_CLASSES = 60  # rows of the table per class; the weakest come first
_MAX_CELLS = 6_000  # of all confusion matrices, so that the file stays small; the best peer's is drawn in any case
_MAX_COLUMNS = 8


def calibration(findings: Findings, styles: Mapping[str, str]) -> list[object]:
    """Returns confidence against accuracy of each member, before and after temperature scaling; the best peer first."""
    content: list[object] = []
    members = sorted(findings.members, key=lambda member: member.name != findings.best_peer)
    drawn = [[_reliability(member, styles)] for member in members if member.reliability is not None]
    if drawn:
        content += drawn[0]
        others = [each for row in drawn[1:] for each in row]
        content.append(folded(f"The other {len(others)} members", *others) if others else None)
    return content


def confusion(findings: Findings) -> list[object]:
    """Returns the confusion matrix of the best peer, its most frequent mistakes, and the other members' matrices folded."""
    members = [member for member in findings.members if member.confusion]
    best = [member for member in members if member.name == findings.best_peer]
    others = [member for member in members if member.name != findings.best_peer]
    others = _that_fit(others, _MAX_CELLS - sum(map(_num_cells, best)))
    content: list[object] = []
    for member in best:
        content += [_confusion(member, findings.class_names), _confused(member)]
    if not best:
        content += [_confused(member) for member in findings.members if member.name == findings.best_peer]
    if others:
        shown = [join([_confusion(member, findings.class_names), _confused(member)]) for member in others]
        content.append(folded(f"Confusion of {', '.join(clip(member.name, 20) for member in others)}", *shown))
    return content


def classes(findings: Findings, styles: Mapping[str, str]) -> Markup | None:
    """Returns a row for each class: its images, the recall of every member, precision and F1 of the best peer; the weakest first."""
    members = [member for member in findings.members if member.per_class]
    best = next((member for member in members if member.name == findings.best_peer), members[0] if members else None)
    if best is None:
        return None
    columns = [best, *(member for member in members if member is not best)][:_MAX_COLUMNS]
    ordered = sorted(best.per_class.items(), key=lambda row: row[1].get("recall", 0.0))
    heads: list[object] = [
        "class",
        "images",
        *(join(["recall", element("br"), member_name(each.name, styles[each.name])]) for each in columns),
    ]
    rows = []
    for class_name, scores in ordered[:_MAX_CLASSES]:
        recalls = (metric_text("recall", each.per_class.get(class_name, {}).get("recall")) for each in columns)
        ours = (metric_text(metric, scores.get(metric)) for metric in ("precision", "f1"))
        rows.append((name(class_name), f"{scores.get('support', 0):.0f}", *recalls, *ours))
    caption = "Classes, those that the peer to ship finds least often first"
    if len(ordered) > _MAX_CLASSES:
        caption += f"; {_MAX_CLASSES} of {len(ordered)}, mutual.evaluate --per-class has all"
    return table([*heads, "precision", "F1"], rows, caption=caption)


def images(findings: Findings, styles: Mapping[str, str]) -> list[object]:
    """Returns images on which peers disagree, and those of which the best peer is surest and wrong."""
    content: list[object] = []
    if findings.disagreements:
        content += [element("h3", "On which the peers disagree most"), _grid(findings.disagreements, styles)]
    if findings.mistakes:
        content += [
            element("h3", "Of which ", name(findings.best_peer, max_length=40), " is surest, and wrong"),
            _grid(findings.mistakes, styles),
        ]
    return [legend(list(styles.items())), *content] if content else []


def _reliability(member: MemberFindings, styles: Mapping[str, str]) -> Markup | None:
    if member.reliability is None:
        return None
    drawn = [reliability_chart(f"{clip(member.name, 24)}, as it is", member.reliability, styles[member.name])]
    if member.scaled is not None:
        drawn.append(
            reliability_chart(f"{clip(member.name, 24)}, at temperature {member.temperature:.2f}", member.scaled, styles[member.name])
        )
    return element("div", *drawn, class_="charts small")


def _confusion(member: MemberFindings, class_names: Sequence[str]) -> Markup:
    names = [*class_names, *map(str, range(len(class_names), len(member.confusion)))][: len(member.confusion)]
    sizes = [max(1, sum(row)) for row in member.confusion]
    fractions = [[count / size for count in row] for row, size in zip(member.confusion, sizes, strict=True)]

    def said(row: int, column: int) -> str:
        kind = "right" if row == column else f"predicted as {clip(names[column], 60)}"
        return f"{clip(names[row], 60)}, {kind}: {member.confusion[row][column]} of {sum(member.confusion[row])}"

    title = f"Confusion of {clip(member.name, 24)}, % of each class"
    drawn = heat_map(
        names,
        names,
        fractions,
        label=title,
        row_axis="class",
        column_axis="predicted as",
        high=1.0,
        text=lambda value: f"{100 * value:.0f}" if value >= 0.005 else "<1",
        title=said,
    )
    return element("figure", element("figcaption", element("strong", title)), drawn)


def _num_cells(member: MemberFindings) -> int:
    """Returns how many cells of a confusion matrix are drawn."""
    return sum(count > 0 for row in member.confusion for count in row)


def _that_fit(members: Sequence[MemberFindings], num_cells: int) -> list[MemberFindings]:
    """Returns the first members whose matrices have so many cells together."""
    ends = accumulate(map(_num_cells, members))
    return [member for member, end in zip(members, ends, strict=True) if end <= num_cells]


def _confused(member: MemberFindings) -> Markup | None:
    if not member.confused:
        return None
    rows = [(name(true), name(predicted), str(count)) for true, predicted, count in member.confused]
    return table(("class", "predicted as", "images"), rows, caption=f"Most frequent mistakes of {clip(member.name, 24)}", texts=2)


def _grid(found: Sequence[ImageFinding], styles: Mapping[str, str]) -> Markup:
    return element("ul", *(_image(each, styles) for each in found), class_="images")


def _image(found: ImageFinding, styles: Mapping[str, str]) -> Markup:
    rows = []
    for member, (predicted, confidence) in found.predictions.items():
        right = predicted == found.label
        shown = join(["✓ " if right else "✗ ", name(predicted, max_length=24)])
        dot = element("span", class_=f"dot {styles.get(member, 'ensemble')}", title=member)
        said = element("span", shown, title=f"{clip(member, 40)}: {clip(predicted, 60)}, {'right' if right else 'wrong'}")
        rows.append(element("li", dot, said, element("span", f"{confidence:.0%}")))
    picture = element(
        "img", src=found.thumbnail, alt=f"Image {clip(found.index, 60)} of class {clip(found.label, 60)}", width=96, height=96
    )
    label = element("strong", name(found.label, max_length=40))
    return element("li", picture, label, " ", element("span", name(found.index, max_length=40), class_="index"), element("ul", *rows))
