"""compare_arms: what is said of made-up runs, and what cannot be said."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_runs import made_up_arm, made_up_run, tiny_recipe

from mutual.engine.comparison import Comparison, compare_arms
from mutual.recipe import InputError

PLAIN = [0.80, 0.82, 0.81, 0.79, 0.83, 0.80, 0.78, 0.84]
GAINS = [0.01, 0.02, 0.015, 0.012, 0.03, 0.02, 0.01, 0.017]
BETTER = [score + gain for score, gain in zip(PLAIN, GAINS, strict=True)]


def compared(*arms, baseline="plain", seeds=range(8), **options):
    return compare_arms(arms, name="digits", command="mutual compare a b", baseline=baseline, seeds=seeds, **options)


def difference(found, arm, metric="top1", baseline="plain"):
    (row,) = [row for row in found.differences if (row.arm, row.metric, row.baseline) == (arm, metric, baseline)]
    return row


def with_nll(scores, scale=1.0):
    return [{"top1": score, "nll": scale * (1 - score), "ece": 0.1} for score in scores]


def test_numbers_of_a_comparison():
    found = compared(made_up_arm("plain", PLAIN[:6], flops=10.0), made_up_arm("dml", BETTER[:6], flops=20.0), seeds=range(6))
    row = difference(found, "dml")
    assert (row.num_pairs, row.p_sign_flip, row.p_holm, row.verdict) == (6, 2 / 64, 2 / 64, "better")
    assert row.mean == pytest.approx(sum(GAINS[:6]) / 6)
    assert row.std == pytest.approx(math.sqrt(sum((gain - row.mean) ** 2 for gain in GAINS[:6]) / 5))
    half_width = 2.570582 * row.std / math.sqrt(6)  # t(0.975, 5), from a table
    assert row.interval == pytest.approx((row.mean - half_width, row.mean + half_width), rel=1e-6)
    plain, dml = found.arms
    assert plain.metrics["top1"].mean == pytest.approx(sum(PLAIN[:6]) / 6)
    assert dml.runs == {seed: f"runs/dml/seed{seed}" for seed in range(6)}
    assert (dml.flops, dml.epochs, dml.images) == (20.0, 4, 160)
    assert (found.split, found.epoch, found.is_optimistic, found.notes) == ("test", "best", False, [])
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_lower_is_better_for_nll_and_ece():
    found = compared(made_up_arm("plain", with_nll(PLAIN)), made_up_arm("dml", with_nll(BETTER)))
    assert difference(found, "dml").verdict == difference(found, "dml", "nll").verdict == "better"
    assert difference(found, "dml", "ece").verdict == "not shown"
    worse = compared(made_up_arm("plain", with_nll(BETTER)), made_up_arm("dml", with_nll(PLAIN)))
    assert difference(worse, "dml").verdict == difference(worse, "dml", "nll").verdict == "worse"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9), st.randoms())
@settings(max_examples=50, deadline=None)
def test_swapped_arms_change_the_signs_and_the_order_of_seeds_nothing(pairs, random):
    first, second = ({seed: pair[index] / 10 for seed, pair in enumerate(pairs)} for index in (0, 1))
    row = difference(compared(made_up_arm("plain", first), made_up_arm("dml", second)), "dml")
    swapped = difference(compared(made_up_arm("plain", second), made_up_arm("dml", first)), "dml")
    assert swapped.mean == pytest.approx(-row.mean)
    assert swapped.p_holm == row.p_holm
    opposite = {"better": "worse", "worse": "better"}
    assert swapped.verdict == opposite.get(row.verdict, row.verdict)
    seeds = list(first)
    random.shuffle(seeds)
    shuffled = compared(made_up_arm("plain", {seed: first[seed] for seed in seeds}), made_up_arm("dml", second))
    assert difference(shuffled, "dml") == row


def test_five_seeds_show_nothing_however_narrow_the_interval_is():
    found = compared(made_up_arm("plain", [0.5] * 5), made_up_arm("dml", [0.9] * 5), seeds=range(5))
    row = difference(found, "dml")
    assert row.interval == pytest.approx((0.4, 0.4))
    assert (row.p_sign_flip, row.verdict) == (0.0625, "too few seeds")
    assert found.notes == [
        "5 seeds: the sign-flip test of 5 pairs cannot give a p below 0.0625, so that nothing can be shown at 5%, however narrow an "
        "interval is; it takes 6 seeds"
    ]


def test_more_arms_take_more_seeds():
    def family(num_seeds):
        methods = [made_up_arm(name, BETTER[:num_seeds]) for name in ("dml", "kd")]
        return compared(made_up_arm("plain", PLAIN[:num_seeds]), *methods, seeds=range(num_seeds))

    six, seven = family(6), family(7)
    assert {row.verdict for row in six.differences} == {"too few seeds"}
    assert {row.p_holm for row in six.differences} == {2 * 2 / 64}
    assert "or 0.0625 after Holm's correction over 2 arms" in six.notes[0]
    assert six.notes[0].endswith("it takes 7 seeds (6 for one arm)")
    assert {row.verdict for row in seven.differences} == {"better"}
    assert {row.p_holm for row in seven.differences} == {2 * 2 / 128}


def test_controls_are_no_claims_and_cost_the_methods_nothing():
    arms = [made_up_arm(name, BETTER[:6], control=name, control_of="dml") for name in ("independent", "longer", "smoothing")]
    other_seeds = made_up_arm("other seeds", PLAIN[5::-1], control="a/a")
    found = compared(made_up_arm("plain", PLAIN[:6]), made_up_arm("dml", BETTER[:6]), *arms, other_seeds, seeds=range(6))
    assert difference(found, "dml").p_holm == 2 / 64
    for control in ("independent", "longer", "smoothing", "other seeds"):
        assert difference(found, control).p_holm is None
    assert difference(found, "independent").verdict == "better", "a test by itself"
    assert difference(found, "other seeds").verdict == "not shown"


def test_a_family_is_of_one_metric():
    found = compared(made_up_arm("plain", with_nll(PLAIN)), made_up_arm("dml", with_nll(BETTER)), made_up_arm("kd", with_nll(PLAIN)))
    assert difference(found, "dml", "nll").p_holm == 2 * 2 / 256
    assert difference(found, "kd", "nll").p_holm == 1


def test_a_method_against_its_controls():
    independent = made_up_arm("independent", PLAIN, control="independent", control_of="dml")
    longer = made_up_arm("longer", [score + 0.1 for score in PLAIN], control="longer", control_of="dml")
    found = compared(made_up_arm("plain", PLAIN), made_up_arm("dml", BETTER), made_up_arm("kd", BETTER), independent, longer)
    (row,) = found.equal_compute
    assert (row.arm, row.metric, row.beats_independent, row.beats_equal_compute) == ("dml", "top1", True, False)
    assert difference(found, "dml", baseline="longer").verdict == "worse"
    assert difference(found, "dml", baseline="independent").verdict == "better"
    assert difference(found, "dml", baseline="longer").p_holm is None


def test_controls_of_the_baseline_and_a_control_that_is_the_baseline():
    independent = made_up_arm("plain", PLAIN, control="independent", control_of="dml")
    found = compared(independent, made_up_arm("dml", BETTER))
    assert len(found.differences) == 1
    assert [(row.arm, row.beats_independent, row.beats_equal_compute) for row in found.equal_compute] == [("dml", True, None)]
    longer = made_up_arm("longer", PLAIN, control="longer")
    of_baseline = compared(made_up_arm("dml", BETTER), longer, baseline="dml")
    assert [(row.arm, row.beats_equal_compute) for row in of_baseline.equal_compute] == [("dml", True)]
    assert [(row.arm, row.baseline, row.verdict) for row in of_baseline.differences] == [("longer", "dml", "worse")]


def test_few_seeds_say_nothing_of_equal_compute():
    longer = made_up_arm("longer", PLAIN[:5], control="longer", control_of="dml")
    found = compared(made_up_arm("plain", PLAIN[:5]), made_up_arm("dml", BETTER[:5]), longer, seeds=range(5))
    assert [row.beats_equal_compute for row in found.equal_compute] == [None]


def test_missing_seeds_are_named_and_the_others_paired():
    dml = {seed: score for seed, score in enumerate(BETTER) if seed not in (2, 7)}
    found = compared(made_up_arm("plain", PLAIN), made_up_arm("dml", dml))
    assert difference(found, "dml").num_pairs == 6
    assert found.arms[1].metrics["top1"].mean == pytest.approx(sum(dml.values()) / 6)
    assert found.notes == ["dml has no run of seeds 2, 7; differences are over the seeds that both arms have"]


def test_a_run_that_diverged_leaves_its_arm_without_a_mean():
    scores = with_nll(BETTER)
    scores[3] |= {"nll": math.nan}
    found = compared(made_up_arm("plain", with_nll(PLAIN)), made_up_arm("dml", scores), made_up_arm("kd", with_nll(BETTER)))
    nll = found.arms[1].metrics["nll"]
    assert (nll.values[3], nll.mean, nll.std) == (None, None, None)
    row = difference(found, "dml", "nll")
    assert (row.mean, row.std, row.interval, row.p_sign_flip, row.p_holm, row.verdict) == (None, None, None, None, None, "not shown")
    assert difference(found, "kd", "nll").p_holm == 2 * 2 / 256, "it is one of two tests still"
    assert difference(found, "dml").verdict == "better", "its accuracy is known"
    assert any(note.startswith("dml, seed 3: nll not finite") for note in found.notes)


def test_an_arm_without_runs_and_a_member_that_was_not_scored():
    lonely = made_up_arm("lonely", [])
    assert compared(made_up_arm("plain", PLAIN), lonely).arms[1].metrics["top1"].mean is None
    dml = made_up_arm("dml", BETTER)
    ensemble = made_up_arm("ensemble", PLAIN, member="ensemble")
    ensemble.runs[0].scores.clear()
    found = compared(made_up_arm("plain", PLAIN), dml, ensemble)
    assert found.arms[2].metrics["top1"].mean is None


def test_one_seed_has_means_alone():
    found = compared(made_up_arm("plain", PLAIN[:1]), made_up_arm("dml", BETTER[:1]), seeds=[0])
    row = difference(found, "dml")
    assert (row.mean, row.std, row.interval, row.p_sign_flip) == (pytest.approx(0.01), None, None, 1)
    assert found.arms[0].metrics["top1"].std is None


def test_scores_by_which_the_epoch_was_chosen_are_optimistic():
    for split, epoch, is_optimistic in (("val", "best", True), ("val", "last", False), ("test", "best", False)):
        arms = [made_up_arm(name, scores, split=split, epoch=epoch) for name, scores in (("plain", PLAIN), ("dml", BETTER))]
        found = compared(*arms)
        assert found.is_optimistic is is_optimistic
        assert any("optimistic" in note for note in found.notes) is is_optimistic


def test_a_better_ece_is_no_proof():
    better = [{"top1": 0.8, "nll": 0.5, "ece": 0.1 - 0.01 * seed} for seed in range(8)]
    plain = [{"top1": 0.8, "nll": 0.5, "ece": 0.3}] * 8
    found = compared(made_up_arm("plain", plain), made_up_arm("dml", better))
    assert any("temperature scaling" in note for note in found.notes)


def test_an_a_a_control_that_differs_is_said():
    found = compared(made_up_arm("plain", PLAIN), made_up_arm("aa", BETTER, control="a/a"))
    assert any(note.startswith("aa differs from plain in top1") for note in found.notes)


def test_metrics_are_those_of_the_task():
    row = {"map": 0.4, "nll": 0.2}
    for recipe, scores, metrics in (
        (tiny_recipe(), {"top1": 0.5, "macro_top1": 0.5, "nll": 0.1, "ece": 0.1}, ["top1", "nll", "ece"]),
        (tiny_recipe(best_metric="macro_top1"), {"top1": 0.5, "macro_top1": 0.5, "nll": 0.1, "ece": 0.1}, ["macro_top1", "nll", "ece"]),
        (tiny_recipe(multi_label=True), row, ["map", "nll"]),
        (tiny_recipe(), {"top1": 0.5}, ["top1"]),
    ):
        assert list(compared(made_up_arm("plain", [scores], recipe=recipe)).arms[0].metrics) == metrics
    found = compared(made_up_arm("plain", [row]), metrics=["nll", "nll"])
    assert list(found.arms[0].metrics) == ["nll"]


def test_notes_of_others_come_first():
    assert compared(made_up_arm("plain", PLAIN), notes=["longer: 71 epochs"]).notes == ["longer: 71 epochs"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"baseline": "plane"}, "--baseline: there is no arm plane; did you mean 'plain'?"),
        ({"metrics": ["top2"]}, "metrics: no run was scored by top2; did you mean 'top1'?"),
    ],
)
def test_wrong_names_are_lines(options, line):
    with pytest.raises(InputError) as raised:
        compared(made_up_arm("plain", PLAIN), **options)
    assert str(raised.value) == line


def test_runs_that_were_not_scored_alike_are_refused():
    with pytest.raises(
        InputError, match=r"not scored alike: runs/plain/seed0 \(the best epoch on test\) and runs/dml/seed0 \(the best epoch on val\)"
    ):
        compared(made_up_arm("plain", PLAIN), made_up_arm("dml", BETTER, split="val"))
    with pytest.raises(InputError, match="no run of these arms is finished"):
        compared(made_up_arm("plain", []))
    with pytest.raises(InputError, match="scored by none of top1, nll, ece"):
        compared(made_up_arm("plain", [{"churn": 0.1}]))


def test_epochs_are_those_that_were_trained():
    arm = made_up_arm("plain", PLAIN[:2])
    arm.runs[1] = made_up_run("plain", 1, {"top1": 0.5}, epochs=7)
    assert compared(arm).arms[0].epochs == 7
