"""What is printed of a comparison: the tables, what every format says, and names that would break one."""

import csv
import io
import json
import math
import re

import pytest
from made_up_runs import made_up_arm

from mutual.engine.comparison import Comparison, compare_arms, render
from mutual.engine.comparison.metrics import format_metric, is_lower_better, unit

NUM_SEEDS = 7
FORMATS = ("text", "markdown", "csv", "json", "latex")
HOSTILE = [
    "a_b|c%d&e",
    "a,b;\"c\"'d'",
    "line\nbreak\rtab\t",
    "{x}$y$#z~^\\frac{1}{2}",
    "*bold* _it_ `code` <b>html</b> [link](x)",
    "[x] * ``` -- ---",
    "\x1b[31mred\u202e",
    "网络与蒸馏 é",
    " ",
    "long " + "objectives.1.temperature=4," * 6,
]


def scores(top1, nll, ece=0.1):
    return [{"top1": top1 + seed / 100, "nll": nll - seed / 50 + seed % 2 / 1000, "ece": ece} for seed in range(NUM_SEEDS)]


def comparison(*more, name="digits", method="dml", command="mutual compare plain.yaml dml.yaml", split="test"):
    arms = [
        made_up_arm("plain", scores(0.8, 0.6), flops=2e9, split=split),
        made_up_arm(method, scores(0.81, 0.5), flops=4e9, note="two peers", split=split),
        made_up_arm("longer", scores(0.82, 0.6), flops=4e9, control="longer", control_of=method, split=split),
        *more,
    ]
    return compare_arms(arms, name=name, command=command, baseline="plain", seeds=range(NUM_SEEDS))


def test_text_table():
    lines = render(comparison(), "text").splitlines()
    assert lines[0] == "digits: 3 arms, seeds 0-6, scores of the best epoch on test images"
    assert "plain   7       4  1.00x  83.00 ± 2.16  0.5404 ± 0.0432  0.1000 ± 0.0000" in lines
    assert "dml     7       4  2.00x  84.00 ± 2.16  0.4404 ± 0.0432  0.1000 ± 0.0000" in lines
    (row,) = [line for line in lines if line.startswith("dml ") and "points" in line and "0.0156" in line and "Holm" not in line][:1]
    assert re.sub(" +", " ", row) == "dml top1 points +1.00 [+1.00, +1.00] 0.00 7 0.0156 0.0156 better, but worse at"
    assert "- dml: two peers" in lines


def test_lines_are_not_longer_than_a_wide_terminal():
    names = [f"recipes/fashion_mnist/dml.yaml objectives.1.temperature={index}.123456789" for index in range(3)]
    wide = comparison(*[made_up_arm(name, scores(0.5, 12345.678), split="val") for name in names], split="val")
    assert max(map(len, render(wide, "text").splitlines())) <= 122


def test_marks_of_methods_that_do_not_beat_their_controls():
    def verdicts(independent, longer):
        plain = [0.5 + seed / 100 for seed in range(NUM_SEEDS)]
        controls = {"independent": independent, "longer": longer}
        arms = [made_up_arm("plain", plain), made_up_arm("dml", [score + 0.1 for score in plain])]
        for kind, gain in controls.items():
            found = [score + 0.1 - gain * (1 + seed) for seed, score in enumerate(plain)] if gain else plain[::-1]
            arms.append(made_up_arm(f"dml {kind}", found, control=kind, control_of="dml"))
        rows = list(csv.DictReader(io.StringIO(render(compare_arms(arms, name="", command="", baseline="plain", seeds=range(7)), "csv"))))
        assert next(row["verdict"] for row in rows if row["kind"] == "difference") == "better"
        text = render(compare_arms(arms, name="", command="", baseline="plain", seeds=range(7)), "markdown")
        return next(line for line in text.splitlines() if line.startswith("| dml | top1")).split(" | ")[-1].removesuffix(" |")

    assert verdicts(0.01, 0.01) == "better"
    assert verdicts(0.01, -0.01) == "better, but worse at equal compute"
    assert verdicts(-0.01, -0.01) == "better, but worse than independent peers and at equal compute"


def test_not_shown_at_equal_compute():
    plain = [0.5 + seed / 100 for seed in range(NUM_SEEDS)]
    dml = [score + 0.1 for score in plain]
    longer = [score + (-1) ** seed * 0.01 for seed, score in enumerate(dml)]
    arms = [made_up_arm("plain", plain), made_up_arm("dml", dml), made_up_arm("longer", longer, control="longer", control_of="dml")]
    arms.append(made_up_arm("independent", plain, control="independent", control_of="dml"))  # the difference from it is marked by nothing
    text = render(compare_arms(arms, name="", command="", baseline="plain", seeds=range(7)), "markdown")
    assert text.count("| better, but not shown at equal compute |") == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_break_no_format(name):
    found = comparison(name=name, method=name, command=f"mutual compare {name}")
    assert Comparison.model_validate(json.loads(render(found, "json"))) == found
    rows = list(csv.DictReader(io.StringIO(render(found, "csv"), newline="")))
    assert {row["arm"] for row in rows} == {"plain", name, "longer"}
    assert len(rows) == 3 * 3 * (NUM_SEEDS + 1) + 3 * 3
    for line in render(found, "markdown").splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (8, 9, 10)
    for line in render(found, "latex").splitlines():
        if not line.startswith("%") and line.endswith("\\\\"):
            plain = re.sub(r"\\.", "", line)
            assert plain.count("&") in (6, 7)
            assert plain.count("{") == plain.count("}")
            assert "%" not in plain
            assert plain.count("$") % 2 == 0
    for format in ("text", "markdown", "latex"):
        assert all(line.isprintable() for line in render(found, format).split("\n"))


def test_rows_of_text_are_aligned_whatever_the_width_of_characters():
    lines = render(comparison(method="网络与蒸馏"), "text").splitlines()
    plain, other = (next(line for line in lines if line.startswith(f"{name} ")) for name in ("plain", "网络与蒸馏"))
    assert len(plain) == len(other) + 5, "each of the five takes two columns"


def test_csv_is_one_table_that_pandas_reads():
    pandas = pytest.importorskip("pandas")
    found = comparison()
    frame = pandas.read_csv(io.StringIO(render(found, "csv")))
    runs = frame[frame.kind == "run"]
    means = runs.groupby(["arm", "metric"]).value.mean()
    for arm in found.arms:
        for metric, summary in arm.metrics.items():
            assert means[arm.name, metric] == pytest.approx(summary.mean)
    differences = frame[(frame.kind == "difference") & (frame.baseline == "plain") & (frame.metric == "top1")].set_index("arm")
    assert differences.loc["dml", "p_holm"] == 2 / 2**7
    assert not differences.loc["dml", "beats_equal_compute"]
    assert math.isnan(differences.loc["longer", "p_holm"])


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_not_known_is_shown_in_every_format(format):
    """One seed, a run that diverged, an arm without runs, no FLOPs."""
    arms = [made_up_arm("plain", [0.5]), made_up_arm("diverged", [{"top1": 0.1, "nll": math.nan}]), made_up_arm("lonely", [])]
    found = compare_arms(arms, name="few", command="", baseline="plain", seeds=[0], metrics=["top1", "nll"])
    text = render(found, format)
    assert "nan" not in text.lower()
    assert "inf" not in text.lower()
    assert "lonely" in text
    alone = compare_arms(arms[:1], name="few", command="", baseline="plain", seeds=[0])
    assert "plain" in render(alone, format)


def test_whose_scores_they_are_is_a_column_where_they_differ():
    ensemble = made_up_arm("ensemble", scores(0.9, 0.5), member="ensemble")
    text = render(comparison(ensemble), "text")
    assert re.search(r"^ensemble +ensemble ", text, re.MULTILINE)
    assert re.search(r"^plain +mean ", text, re.MULTILINE)
    assert "FLOPs" in text
    assert re.search(r"^ensemble .* - ", text, re.MULTILINE), "its FLOPs were not counted"


def test_latex_is_booktabs():
    text = render(comparison(method="dml_T4"), "latex")
    assert text.count("\\begin{tabular}") == text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == 3
    assert "dml\\_T4 & $7$ & $4$ & $2.00\\times$ & $84.00 \\pm 2.16$" in text
    assert "top1 \\%" in text
    row = next(line for line in render(comparison(method="[x]*"), "latex").splitlines() if "x" in line and line.startswith("{[}"))
    assert row.startswith("{[}x{]}{*} & "), "behind a line break a bracket, or a star, would be an argument of it"


def test_directions_and_units_of_metrics():
    assert [is_lower_better(metric) for metric in ("top1", "macro_top1", "top5", "map", "nll", "ece")] == [False] * 4 + [True] * 2
    assert (unit("top1"), unit("top1", difference=True), unit("nll"), unit("ece")) == ("%", "points", "nats", "")
    assert format_metric("top1", -0.00001, signed=True) == "0.00"
    assert format_metric("nll", 0.5, signed=True) == "+0.5000"
