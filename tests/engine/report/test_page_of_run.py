"""The page of a run: all that was found is on it, nothing on it does anything, and a browser draws it in light, dark and on a phone."""

import math
from dataclasses import replace

import pytest
from html_page import CHROMIUM, Page, assert_harmless, chromium
from report_samples import HOSTILE, comparison, findings

from mutual.engine.report import comparison_page, run_page
from mutual.engine.storage import REPORT_MARK

SECTIONS = [
    "result",
    "curves",
    "pairs",
    "fidelity",
    "calibration",
    "classes",
    "images",
    "graph",
    "features",
    "churn",
    "costs",
    "recipe",
    "environment",
]
MEASURE = (
    "[document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor, document.querySelectorAll('section').length]"
)


def keys(page):
    return [each["href"][1:] for each in page.all("a") if each["href"].startswith("#") and each.get("class") != "skip"]


def test_every_section_is_there_and_can_be_reached():
    page = assert_harmless(run_page(findings()))
    assert keys(page) == SECTIONS
    assert len(page.all("section")) == len(SECTIONS)


def test_the_first_screen_says_what_to_ship_and_how():
    page = Page(run_page(findings(folder="runs/my run", best_peer="b")))
    text = page.text
    assert "Ship b" in text
    assert findings().reason in text
    assert "python -m mutual.export 'runs/my run' --peer b --temperature 1.37" in text
    assert findings().notes[0] in text
    assert "92.00 %" in text.split("All members")[0]


def test_what_test_images_say_comes_before_what_has_chosen():
    """They alone are of images that have chosen neither the epoch nor the peer."""
    found = findings()
    summary = found.summary.model_copy(update={"images": {"train": 1_000, "val": 400, "test": 300}})
    text = Page(run_page(replace(found, summary=summary))).text.split("All members")[0]
    assert text.index("test top-1") < text.rindex("400 validation images")
    assert "300 images that chose nothing" in text
    assert "test top-1" not in Page(run_page(replace(found, split="test"))).text.split("All members")[0]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_name_is_never_more_than_a_name(hostile):
    names = [hostile, "other"]
    found = findings(peers=("a", "b"), epochs=2, class_names=names, notes=[hostile], reason=hostile, folder=hostile, recipe_text=hostile)
    found = replace(found, environment={hostile: hostile}, changes=[(hostile, hostile, hostile)])
    found = replace(found, members=[replace(member, model=hostile) for member in found.members])
    found = replace(found, edges=[replace(edge, loss=hostile, at=hostile) for edge in found.edges])
    page = assert_harmless(run_page(found))
    assert keys(page) == SECTIONS
    read = "".join(data for tag, data in page.texts if tag != "style").replace("\n", "")
    assert read.isprintable()
    assert "\udcff" not in read


def test_a_page_of_hostile_names_can_be_written():
    assert b"<script>alert" not in run_page(findings(class_names=HOSTILE, epochs=2)).encode()


def test_the_mark_of_a_report_is_in_its_head():
    assert REPORT_MARK in run_page(findings()).encode()[:2048]
    assert REPORT_MARK in comparison_page(comparison()).encode()[:2048]


@pytest.mark.parametrize("peers", [("a",), ("a", "b"), tuple("abcdefgh"), tuple(f"peer_{index}" for index in range(12))])
def test_any_number_of_peers_is_drawn(peers):
    assert_harmless(run_page(findings(peers=peers, epochs=3)))


def test_a_long_run_of_many_classes_stays_a_small_file():
    names = [f"class {index}" for index in range(100)]
    text = run_page(findings(peers=("a", "b", "c"), class_names=names, epochs=1_000))
    assert len(text) < 2e6
    assert "Confusion of a" in text
    assert "Confusion of b" not in text


def test_what_was_not_found_is_left_out():
    """One peer, several labels, no epoch evaluated: no pairs, no reliability, no matrix."""
    found = findings(peers=("a",), teachers=(), epochs=1, history=[], pairs=[], edges=[], disagreements=[], mistakes=[], test={}, notes=[])
    bare = replace(
        found.members[0], reliability=None, scaled=None, temperature=None, confusion=[], confused=[], per_class={}, churn={}, flops=None
    )
    bare = replace(bare, scores={"map": 0.8, "nll": math.nan, "ece": 0.1})
    page = assert_harmless(run_page(replace(found, members=[bare], summary=None, changes=[], environment={})))
    assert keys(page) == ["result", "recipe"]
    assert "--temperature" not in page.text
    assert "80.00 %" in page.text
    assert "nan" not in page.text


def test_numbers_that_are_not_finite_break_a_line_and_nothing_else():
    found = findings()
    for row in found.history[3:5]:
        row["eval"]["a"]["nll"] = None
        row["train"]["loss"]["a"] = math.inf
    assert "inf" not in "".join(each.get("d", "") for each in assert_harmless(run_page(found)).all("path"))


def test_pairs_are_shown_in_both_directions():
    """Analyses give each pair once, with the KL of the other direction beside it."""
    found = findings(peers=("a", "b"), teachers=())
    pair = replace(found.pairs[0], kl=0.123, reverse_kl=0.456, reverse_kl_by_epoch={1: 0.5, 2: 0.4})
    page = Page(run_page(replace(found, pairs=[pair])))
    titles = [data for tag, data in page.texts if tag == "title"]
    assert "a, b: 0.1230" in titles
    assert "b, a: 0.4560" in titles
    assert any("KL(another || b)" in data for _, data in page.texts)


def test_without_values_by_pair_their_means_are_drawn():
    found = findings()
    older = [replace(pair, agreement_by_epoch={}, kl_by_epoch={}, reverse_kl_by_epoch={}) for pair in found.pairs]
    text = Page(run_page(replace(found, pairs=older))).text
    assert "Mean agreement of pairs" in text
    assert "agreement with the others" not in text


def test_members_that_each_have_one_layer_share_a_matrix():
    found = findings()
    single = [replace(pair, cka={("fc:input", "fc:input"): 0.7}) for pair in found.pairs]
    text = Page(run_page(replace(found, pairs=single))).text
    assert "CKA of each pair at fc:input" in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_draws_it_in_light_dark_and_on_a_phone(tmp_path):
    """No console message, no request but for the file itself, and no page that is wider than its window."""
    pages = {
        "run": run_page(findings()),
        "hostile": run_page(findings(peers=("a", "b"), class_names=HOSTILE, epochs=3)),
        "eight": run_page(findings(peers=tuple("abcdefgh"), epochs=30)),
        "comparison": comparison_page(comparison()),
    }
    with chromium() as browser:
        for name, text in pages.items():
            file = tmp_path / f"{name}.html"
            file.write_text(text, encoding="utf-8")
            colours = {}
            for width, scheme in ((1280, "light"), (1280, "dark"), (360, "light")):
                (needed, colour, sections), asked, said = browser.look(file, width=width, height=740, scheme=scheme, expression=MEASURE)
                assert needed <= width, (name, width)
                assert (asked, said) == ([file.as_uri()], []), name
                assert sections >= 5, name
                colours[scheme] = colour
            assert colours == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}
