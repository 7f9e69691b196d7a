"""The curves of arms, and the pictures of them: what is in them, their formats, their bytes."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from made_up_runs import made_up_arm, tiny_recipe
from PIL import Image
from support import ROOT

from mutual.engine.comparison import compare_arms, plot_curves
from mutual.engine.comparison.curves import arm_curve, teacher_scores
from mutual.recipe import InputError


def lines(*scores, first=1):
    """Records of metrics.jsonl; `scores` are those of an evaluation, None where an epoch was not evaluated."""
    return [{"epoch": first + index, "step": 8 * index, **({"eval": each} if each else {})} for index, each in enumerate(scores)]


def rising(seed, num_epochs=4, gain=0.0):
    rows = [0.5 + gain + 0.3 * epoch / num_epochs + seed / 100 for epoch in range(1, num_epochs + 1)]
    return lines(*({"a": {"top1": row}, "b": {"top1": row + 0.02}, "ensemble": {"top1": row + 0.05}} for row in rows))


def arm_with(histories, name="plain", **options):
    scores = [{"top1": 0.8} for _ in histories]
    arm = made_up_arm(name, scores, **options)
    for seed, history in enumerate(histories):
        arm.runs[seed] = dataclasses.replace(arm.runs[seed], history=history)
    return arm


def draw(arms, file, baseline="plain"):
    plot_curves(arms, compare_arms(arms, name="digits", command="", baseline=baseline, seeds=range(3)), file)
    return file


def two_arms(name="dml", flops=2e9, num_seeds=3, num_epochs=4):
    histories = [rising(seed, num_epochs) for seed in range(num_seeds)]
    better = [rising(seed, num_epochs, gain=0.05) for seed in range(num_seeds)]
    epochs = {"epochs": num_epochs}
    return [arm_with(histories, flops=flops and flops / 2, **epochs), arm_with(better, name, flops=flops, **epochs)]


def test_a_curve_is_the_mean_over_peers_and_seeds_with_its_deviation():
    curve = arm_curve(arm_with([rising(0), rising(1), rising(2)], flops=4e9), "top1")
    assert (curve.arm, curve.num_seeds, curve.epochs) == ("plain", 3, [1, 2, 3, 4])
    assert curve.means == pytest.approx([0.595, 0.67, 0.745, 0.82])
    assert curve.stds == pytest.approx([0.01] * 4)
    assert curve.flops == pytest.approx([1e9, 2e9, 3e9, 4e9])


def test_an_epoch_takes_as_many_flops_whenever_runs_have_stopped():
    """They are counted of the mean of the epochs that the runs took: of two that took 2 and 4 epochs, three."""
    arm = arm_with([rising(0, 2), rising(1, 4)], flops=3e9)
    for seed, epochs in ((0, 2), (1, 4)):
        arm.runs[seed] = dataclasses.replace(arm.runs[seed], summary=arm.runs[seed].summary.model_copy(update={"epoch": epochs}))
    curve = arm_curve(arm, "top1")
    assert curve.epochs == [1, 2]
    assert curve.flops == pytest.approx([1e9, 2e9])


def test_a_curve_is_of_the_member_that_is_compared():
    histories = [rising(0)]
    assert arm_curve(arm_with(histories, member="b"), "top1").means[-1] == pytest.approx(0.82)
    assert arm_curve(arm_with(histories, member="ensemble"), "top1").means[-1] == pytest.approx(0.85)
    best = arm_with(histories, member="best")
    best.runs[0] = dataclasses.replace(best.runs[0], best_peer="b")
    assert arm_curve(best, "top1").means[-1] == pytest.approx(0.82)


def test_a_curve_has_the_epochs_that_all_runs_have():
    every_second = lines(None, {"a": {"top1": 0.5}, "b": {"top1": 0.5}}, None, {"a": {"top1": None}, "b": {"top1": 0.5}})
    curve = arm_curve(arm_with([every_second, rising(1)]), "top1")
    assert curve.epochs == [2, 4]
    assert math.isfinite(curve.means[0])
    assert math.isnan(curve.means[1]), "one peer of one run diverged"
    assert arm_curve(arm_with([rising(0)]), "nll").epochs == []
    assert arm_curve(arm_with([]), "top1").epochs == []


def test_teachers_are_lines_and_equal_ones_are_one(tmp_path):
    def taught(name, score):
        history = lines({"b": {"top1": score}}, {"a": {"top1": 0.5}}, first=0)
        arm = arm_with([history, history], name, recipe=tiny_recipe(frozen=True))
        return dataclasses.replace(arm, arm=dataclasses.replace(arm.arm, recipe=tiny_recipe(frozen=True)))

    found = teacher_scores([taught("kd", 0.9), taught("kd T 4", 0.9), taught("other", 0.7), arm_with([rising(0)])], "top1")
    assert found == {"b": pytest.approx(0.9), "b of other": pytest.approx(0.7)}
    assert arm_curve(taught("kd", 0.9), "top1").epochs == [1]
    arms = [taught("b (frozen)", 0.9), taught("b", 0.7)]
    assert draw(arms, tmp_path / "curves.svg", baseline="b").read_bytes().count(b"<!-- b") == 4, "arms may be called as teachers are"


@pytest.mark.parametrize("flops", [2e9, None])
def test_pictures_are_what_their_names_say_and_equal_runs_give_equal_bytes(flops, tmp_path):
    arms = two_arms(flops=flops)
    for name in ("curves.png", "curves.SVG"):
        first, second = draw(arms, tmp_path / name).read_bytes(), draw(arms, tmp_path / "new" / name).read_bytes()
        assert first == second
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
        assert image.size[0] == (1350 if flops else 945), "the panel of FLOPs is left out where none is known"
    assert ElementTree.parse(tmp_path / "curves.SVG").getroot().tag.endswith("svg")
    assert b"<dc:date>" not in (tmp_path / "curves.SVG").read_bytes()


@pytest.mark.parametrize("name", ["_hidden", "$x_{$", "a|b&<c>\"--'%", "line\nbreak", "网络", "long name " * 30])
def test_hostile_names_are_drawn(name, tmp_path):
    root = ElementTree.parse(draw(two_arms(name), tmp_path / "curves.svg")).getroot()
    assert root.tag.endswith("svg")


@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
def test_odd_runs_are_drawn(tmp_path):
    """One seed, one point, a run that diverged, FLOPs of very different sizes and of some arms alone, an arm without evaluations."""
    diverged = lines(*({"a": {"top1": None}, "b": {"top1": 0.1}} for _ in range(4)))
    arms = [
        arm_with([rising(0)[:1]], flops=1e9),
        arm_with([diverged], "diverged", flops=1e12),
        arm_with([rising(0)], "unknown"),
        arm_with([[]], "nothing", control="longer", control_of="diverged"),
    ]
    for suffix in ("png", "svg"):
        assert draw(arms, tmp_path / f"curves.{suffix}").stat().st_size > 1000


def test_a_large_svg_is_small(tmp_path):
    arms = [arm for index in range(5) for arm in two_arms(f"method {index}", num_epochs=100)]
    arms = [dataclasses.replace(arm, arm=dataclasses.replace(arm.arm, name=str(index))) for index, arm in enumerate(arms)]
    assert draw(arms, tmp_path / "curves.svg", baseline="0").stat().st_size < 200_000


def test_another_suffix_and_runs_without_curves_are_lines(tmp_path):
    with pytest.raises(InputError, match=r"--plot curves\.pdf: a plot is a \.png or an \.svg"):
        draw(two_arms(), Path("curves.pdf"))
    with pytest.raises(InputError, match="no evaluation of these runs has top1"):
        draw([arm_with([[]])], tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


IMPORTS = """
import sys
import matplotlib as _  # so that what it imports by itself is not taken for ours
before = {name for name in sys.modules if name.split(".")[0] == "matplotlib"}
from pathlib import Path
import mutual.engine.comparison
loaded = {name.split(".")[0] for name in sys.modules} & {"scipy", "torch", "pandas"}
assert not loaded, loaded
assert "matplotlib.figure" not in sys.modules
from test_plots import draw, two_arms
draw(two_arms(), Path(sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.mark.slow
def test_nothing_heavy_is_imported_and_no_display_is_asked_for(tmp_path):
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}", "MPLBACKEND": "tkagg", "HOME": str(tmp_path)}
    env["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # where the list of fonts is
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, tmp_path / "curves.png"], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
