"""The page of a comparison: the answer in words first, and no word that its numbers do not bear."""

import pytest
from html_page import Page, assert_harmless
from report_samples import HOSTILE, arm, comparison, difference

from mutual.engine.comparison import EqualCompute
from mutual.engine.report import comparison_page
from mutual.engine.report.pages import headline
from mutual.engine.report.pages.comparison_charts import forest_plot
from mutual.engine.report.pages.verdicts import sentences

SECTIONS = ["result", "arms", "differences", "seeds", "runs", "command"]


def keys(page):
    return [each["href"][1:] for each in page.all("a") if each["href"].startswith("#") and each.get("class") != "skip"]


def test_every_section_is_there():
    page = assert_harmless(comparison_page(comparison()))
    assert keys(page) == SECTIONS
    assert comparison().command in page.text
    assert comparison().notes[0] in page.text


def test_the_headline_says_what_helps_and_what_equal_compute_says_of_it():
    assert headline(comparison()) == (
        "dml_t4 helps: NLL -0.0750 nats, but not more than the same compute spent on one longer-trained net; dml_t1: no difference is shown"
    )


def test_beside_equal_compute_that_is_beaten_nothing_is_added():
    better = [EqualCompute(arm="dml_t4", metric="nll", beats_independent=True, beats_equal_compute=True)]
    found = comparison(equal_compute=better)
    assert headline(found).startswith("dml_t4 helps: NLL -0.0750 nats; ")
    assert "dml_t4, NLL: better than the same compute spent on one longer-trained net." in sentences(found)


def test_one_net_with_the_same_compute_that_is_better_is_said():
    """`not shown to be better` would hide it, as the table says `worse`."""
    against_longer = [
        difference("dml_t1", "top1", -0.04, "worse", num_pairs=6, baseline="longer"),
        difference("dml_t4", "nll", 0.04, "worse", num_pairs=6, baseline="longer"),
    ]
    equal = [
        EqualCompute(arm=arm, metric=metric, beats_independent=None, beats_equal_compute=False)
        for arm, metric in (("dml_t1", "top1"), ("dml_t4", "nll"))
    ]
    found = comparison(differences=[*comparison().differences, *against_longer], equal_compute=equal)
    assert headline(found) == (
        "dml_t4 helps: NLL -0.0750 nats, but one net trained longer with the same compute is better; "
        "dml_t1: no difference is shown, and one net trained longer with the same compute is better"
    )
    said = [
        each for each in sentences(found) if each.startswith("dml_t1, top-1: worse than the same compute spent on one longer-trained net: ")
    ]
    assert len(said) == 1
    assert "top-1 -4.00 points (95 % interval -5.30 .. -2.70, p 0.031" in said[0]


def test_each_chart_of_differences_is_against_one_arm():
    more = [difference("dml_t1", "top1", -0.04, "worse", num_pairs=6, baseline="longer")]
    page = comparison_page(comparison(differences=[*comparison().differences, *more]))
    labels = [each["aria-label"] for each in Page(page).all("svg") if " against " in each.get("aria-label", "")]
    assert [label.partition(":")[0] for label in labels] == ["top-1 against independent", "NLL against independent", "top-1 against longer"]
    assert labels[-1] == "top-1 against longer: dml_t1 -4.00"


def test_a_chart_says_which_way_is_better():
    drawn = {metric: forest_plot(metric, [difference("a", metric, -0.1, "better", num_pairs=6)], {}) for metric in ("top1", "nll", "churn")}
    assert {metric: "lower is better" in plot for metric, plot in drawn.items()} == {"top1": False, "nll": True, "churn": True}


def test_a_sentence_has_the_interval_and_both_p_values():
    assert sentences(comparison())[0] == (
        "dml_t4 against independent: NLL -0.0750 nats (95 % interval -0.0985 .. -0.0515, p 0.031, 0.062 after Holm's correction): better."
    )


def test_of_too_few_seeds_nothing_is_claimed():
    found = comparison(2)
    assert headline(found) == "dml_t4: too few seeds to claim a difference; dml_t1: too few seeds to claim a difference"
    text = Page(comparison_page(found)).text
    assert "helps" not in text


def test_what_hurts_is_said_beside_what_helps():
    found = comparison()
    turned = [
        each.model_copy(update={"verdict": "worse"}) if (each.arm, each.metric) == ("dml_t4", "top1") else each
        for each in found.differences
    ]
    assert "and hurts top-1 +0.40 points" in headline(comparison(differences=turned))


def test_controls_are_the_subject_where_there_is_nothing_else():
    found = comparison()
    shown = [each for each in found.arms if each.control is not None]
    assert headline(comparison(arms=shown)) == "longer helps: NLL -0.0800 nats"


def test_many_arms_are_counted():
    seeds = range(6)
    arms = [comparison().arms[0], *(arm(f"arm{index}", 0.9, 0.3, seeds=seeds) for index in range(4))]
    differences = [each.model_copy(update={"arm": f"arm{index}"}) for index in range(4) for each in comparison().differences[:2]]
    assert headline(comparison(arms=arms, differences=differences)) == "4 of 4 arms help, against independent"


def test_a_comparison_without_differences_is_a_page():
    page = assert_harmless(comparison_page(comparison(1, differences=[], arms=comparison(1).arms[:1], equal_compute=[], notes=[])))
    assert "There is no difference to look at" in page.text
    assert "differences" not in keys(page)


def test_scores_of_images_that_chose_the_epoch_are_called_optimistic():
    assert "a little optimistic" in Page(comparison_page(comparison(is_optimistic=True))).text
    assert "a little optimistic" not in Page(comparison_page(comparison())).text


def test_values_of_the_same_seed_are_joined_and_lost_ones_left_out():
    found = comparison()
    lost = found.arms[1].metrics["nll"]
    lost = lost.model_copy(update={"values": {**lost.values, 3: None}})
    arms = [each.model_copy(update={"metrics": {**each.metrics, "nll": lost}}) if each.name == "dml_t4" else each for each in found.arms]
    page = Page(comparison_page(comparison(arms=arms)))
    titles = [data for tag, data in page.texts if tag == "title"]
    assert f"dml_t4, seed 2: {lost.values[2]:.4f}" in titles
    assert not [each for each in titles if each.startswith("dml_t4, seed 3: 0.")]
    assert len(page.all("polyline", "pair")) == 12


def test_curves_have_bands_over_the_seeds():
    curves = {"dml_t4": {"nll": [(epoch, [1.0 / epoch, 1.2 / epoch]) for epoch in (1, 2, 3)]}, "longer": {"nll": [(1, [0.5]), (2, [0.4])]}}
    page = assert_harmless(comparison_page(comparison(), curves=curves))
    assert "curves" in keys(page)
    assert len(page.all("polygon", "band")) == 1
    titles = [data for tag, data in page.texts if tag == "title"]
    assert "dml_t4, epoch 1: 1.1000" in titles


def test_runs_link_to_their_reports():
    page = assert_harmless(comparison_page(comparison(), links={"dml_t4": {2: "./dml_t4-seed2/report.html"}}))
    assert [each["href"] for each in page.all("a") if each["href"].startswith("./")] == ["./dml_t4-seed2/report.html"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_name_is_never_more_than_a_name(hostile):
    arms = [
        each.model_copy(update={"name": hostile, "note": hostile, "flops_note": hostile}) if each.name == "dml_t4" else each
        for each in comparison().arms
    ]
    differences = [each.model_copy(update={"arm": hostile}) if each.arm == "dml_t4" else each for each in comparison().differences]
    assert_harmless(comparison_page(comparison(arms=arms, differences=differences, command=hostile, notes=[hostile], name=hostile)))
