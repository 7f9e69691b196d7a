"""`mutual.report` on a small run and on a comparison; and what wrong input gets."""

import json
import shutil

import pytest
import yaml
from html_page import assert_harmless
from report_samples import arm, comparison
from support import tiny_document

from mutual import compare, report, train
from mutual.engine.storage.reports import REPORT_MARK

CELLS = [{"widths": [2, 2, 2, 2]}, {"widths": [2, 2, 2, 4]}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two peers that learn from each other."""
    root = tmp_path_factory.mktemp("runs")
    peers = {name: {"model": "small_cnn", "args": args} for name, args in zip("ab", CELLS, strict=True)}
    data = {
        "dataset": "fake",
        "num_train": 24,
        "num_val": 12,
        "image_size": 8,
        "channels": 1,
        "num_classes": 3,
        "batch_size": 8,
        "test": 0.25,
    }
    document = tiny_document(name="run", output=str(root), peers=peers, data=data)
    (root / "run.yaml").write_text(yaml.safe_dump(document))
    assert train.main([str(root / "run.yaml")]) == 0
    return root / "run"


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def compared(trained, tmp_path):
    """The folder of a comparison, with two run folders."""
    root = tmp_path / "compared"
    for seed in (0, 1):
        shutil.copytree(trained, root / f"dml_t4-seed{seed}")
    arms = [arm("independent", 0.5, 1.0, seeds=[0, 1]), arm("dml_t4", 0.6, 0.9, seeds=[0, 1])]
    (root / "comparison.json").write_text(comparison(2, arms=arms).model_dump_json())
    return root


def test_a_run_is_written_as_one_page(folder, capsys):
    assert report.main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}/report.html  ")
    assert ": ship '" in out
    assert out.count("\n") == 1
    page = assert_harmless((folder / "report.html").read_text())
    assert "Pairs of peers" in page.text
    assert "not been finished" not in page.text


def test_an_unfinished_run_is_written_with_a_note(folder, tmp_path):
    (folder / "summary.json").unlink()
    assert report.main([str(folder), "--split", "test", "--output", str(tmp_path / "test.html")]) == 0
    text = assert_harmless((tmp_path / "test.html").read_text()).text
    assert "the run has not been finished" in text
    assert "test images" in text
    assert not (folder / "report.html").exists()


def test_a_comparison_has_curves_and_links_to_reports(compared, capsys, monkeypatch, tmp_path):
    assert report.main([str(compared / "dml_t4-seed1")]) == 0
    capsys.readouterr()
    assert report.main([str(compared)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{compared}/report.html  ")
    assert "too few seeds to claim a difference" in out
    page = assert_harmless((compared / "report.html").read_text())
    assert [each["href"] for each in page.all("a") if each["href"].startswith("./")] == ["./dml_t4-seed1/report.html"]
    assert "Validation top-1" in page.text
    monkeypatch.chdir(compared)
    assert report.main([".", "--output", str(tmp_path / "elsewhere" / "page.html")]) == 0
    page = assert_harmless((tmp_path / "elsewhere" / "page.html").read_text())
    assert [each["href"] for each in page.all("a") if each["href"].startswith(".")] == ["./../compared/dml_t4-seed1/report.html"]


def test_a_copied_comparison_shows_the_runs_that_were_copied_with_it(compared, tmp_path):
    """As `mutual.compare` reads it, and not those that were left where it was made."""
    copied = shutil.copytree(compared, tmp_path / "copied")
    text = (compared / "comparison.json").read_text()
    (copied / "comparison.json").write_text(text.replace('"dml_t4-seed', f'"{compared}/dml_t4-seed'))
    (copied / "dml_t4-seed0" / "report.html").write_bytes(REPORT_MARK)
    assert report.main([str(copied)]) == 0
    page = assert_harmless((copied / "report.html").read_text())
    assert [each["href"] for each in page.all("a") if each["href"].startswith("./")] == ["./dml_t4-seed0/report.html"]


def test_a_comparison_whose_runs_are_damaged_or_gone_has_no_curves(compared):
    shutil.rmtree(compared / "dml_t4-seed0")
    (compared / "dml_t4-seed1" / "recipe.yaml").write_text("not as it was")
    assert report.main([str(compared)]) == 0
    assert "Validation top-1" not in assert_harmless((compared / "report.html").read_text()).text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is no run folder and no comparison: it holds neither recipe.yaml nor comparison.json; give the folder that"),
        (
            ["{run}", "--output", "{run}/recipe.yaml"],
            "recipe.yaml is no report that mutual.report wrote, so that it is left alone; give another",
        ),
        (["{run}", "--output", "{run}"], "run is a folder; give another file, --output FILE.html"),
        (["{run}", "peers.a.modle=x"], "peers.a.modle"),
        (["{compared}", "--split", "test", "data.root=x"], "--split, data.root=x: these are for a run, and"),
    ],
)
def test_wrong_input_is_a_line(folder, compared, capsys, words, message):
    before = (folder / "recipe.yaml").read_bytes()
    assert report.main([word.format(run=folder, compared=compared) for word in words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert (folder / "recipe.yaml").read_bytes() == before
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"name": "x"}', json.dumps({"arms": 3})])
def test_a_damaged_comparison_is_a_line(compared, capsys, content):
    (compared / "comparison.json").write_text(content)
    assert report.main([str(compared)]) == 2
    assert "comparison.json is damaged, or of another version; the mutual.compare that made it writes it again" in capsys.readouterr().err
    assert not (compared / "report.html").exists()


def _without_arms(found):
    return {**found, "arms": []}


def _with_another_baseline(found):
    return {**found, "baseline": "nobody"}


def _with_two_arms_alike(found):
    return {**found, "arms": [found["arms"][0]] * 2}


@pytest.mark.parametrize("change", [_without_arms, _with_another_baseline, _with_two_arms_alike])
def test_a_comparison_that_contradicts_itself_is_a_line(compared, capsys, change):
    file = compared / "comparison.json"
    file.write_text(json.dumps(change(json.loads(file.read_bytes()))))
    for verb in (report, compare):
        assert verb.main([str(compared)]) == 2
        err = capsys.readouterr().err
        assert "comparison.json is damaged" in err
        assert err.count("\n") == 1


def test_a_comparison_whose_arm_has_no_runs_is_a_line(compared, capsys):
    found = json.loads((compared / "comparison.json").read_bytes())
    found["arms"][0]["runs"] = {}
    (compared / "comparison.json").write_text(json.dumps(found))
    assert compare.main([str(compared)]) == 2
    assert "comparison.json names no run of the arm" in capsys.readouterr().err


def test_a_run_without_an_evaluated_epoch_is_a_line(folder, capsys):
    shutil.rmtree(folder / "best")
    assert report.main([str(folder)]) == 2
    assert "has no best weights yet: no epoch has been evaluated" in capsys.readouterr().err
