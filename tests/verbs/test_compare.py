"""`mutual.compare` from its command line to what it prints and leaves behind."""

import json
import os
import signal
import sys
import time

import pytest
import yaml
from stand_in_runs import launcher, recipe_document, write_run
from support import ROOT, digests, run, start, tiny_document

from mutual import compare
from mutual.engine.comparison import COMPARISON, Comparison
from mutual.engine.comparison.comparison_folder import COMPARISON_MARK


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), str(ROOT)]))
    monkeypatch.setenv("STAND_IN", "{}")


@pytest.fixture
def recipe(tmp_path):
    """A recipe with test images."""
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump(recipe_document(data={**recipe_document()["data"], "val": 0.25})))
    return file


def words(recipe, *more, folder=None):
    """Arguments that train with the stand-in."""
    return [str(recipe), "--output", str(folder or recipe.parent / "runs"), "--launcher", launcher(), *map(str, more)]


def starts(folder):
    return (folder / "starts.txt").read_text().splitlines()


@pytest.mark.slow
def test_recipes_are_trained_compared_and_shown_again_from_their_folder(recipe, capsys):
    line = words(recipe, "objectives.1.temperature=1,4", "--seeds", "0:2", "--jobs", "2", "--json")
    assert compare.main(line) == 0
    found = Comparison.model_validate_json(capsys.readouterr().out)
    folder = recipe.parent / "runs" / "compare_pair"
    assert found == Comparison.model_validate_json((folder / COMPARISON).read_bytes())
    assert ([arm.name for arm in found.arms], found.baseline) == (["pair temperature=1", "pair temperature=4"], "pair temperature=1")
    assert (found.seeds, found.split, found.epoch, found.is_optimistic) == ([0, 1], "test", "best", False)
    assert found.arms[1].runs == {seed: str(folder / f"pair-temperature-4-seed{seed}") for seed in (0, 1)}
    assert found.arms[1].metrics["top1"].mean == pytest.approx(1.5905)
    assert found.arms[0].flops == found.arms[1].flops > 0
    assert found.command.startswith("python -m mutual.compare ")
    assert len(starts(folder)) == 4

    assert compare.main([*line[:-1], "--markdown"]) == 0
    assert "| pair temperature=4 |" in capsys.readouterr().out
    assert len(starts(folder)) == 4

    assert compare.main([str(folder), "--json", "--peer", "b", "--epoch", "last", "--seeds", "1"]) == 0
    again = Comparison.model_validate_json(capsys.readouterr().out)
    assert ([arm.name for arm in again.arms], again.seeds, again.split) == ([arm.name for arm in found.arms], [1], "val")
    assert again.arms[0].member == "b"
    assert again.arms[0].flops == found.arms[0].flops


@pytest.mark.slow
def test_runs_that_exist_are_grouped_and_nothing_is_written_unless_named(tmp_path, capsys):
    plain = recipe_document(objectives=[{"loss": "cross_entropy"}])
    folders = [
        write_run(tmp_path / f"{name}-seed{seed}", document, seed=seed)
        for name, document in (("plain", plain), ("dml", recipe_document()))
        for seed in (0, 1)
    ]
    before = sorted(tmp_path.rglob("*"))
    assert compare.main([*map(str, folders), "--json", "--baseline", "plain"]) == 0
    found = Comparison.model_validate_json(capsys.readouterr().out)
    assert [arm.name for arm in found.arms] == ["plain", "dml"]
    assert next(row.mean for row in found.differences if row.metric == "top1") == pytest.approx(0.02)
    assert (found.split, found.epoch) == ("val", "last")
    assert sorted(tmp_path.rglob("*")) == before
    assert compare.main([str(tmp_path), "--name", "both", "--output", str(tmp_path / "found")]) == 0
    assert (tmp_path / "found" / "both" / COMPARISON).is_file()


@pytest.mark.parametrize("section", ["optimizer", "schedule", "data", "peers"])
def test_a_run_folder_chooses_no_code_that_is_run_to_count_flops(section, tmp_path, capsys, monkeypatch):
    (tmp_path / "of_the_folder.py").write_text("from pathlib import Path\nPath(__file__).with_name('it_ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = {"name": "of_the_folder:make"}
    given = {
        "optimizer": {**own, "lr": 0.1},
        "schedule": own,
        "data": {**recipe_document()["data"], "augment": [own]},
        "peers": {"a": {"model": "small_cnn", "optimizer": own}, "b": {"model": "small_cnn"}},
    }
    folder = write_run(tmp_path / "run", recipe_document(**{section: given[section]}))
    assert compare.main([str(folder), "--json"]) == 0
    found = Comparison.model_validate_json(capsys.readouterr().out)
    assert found.arms[0].flops_note == "not counted, as that would run code that the run folder names"
    assert not (tmp_path / "it_ran").exists()


MISTAKES = [
    ("{recipe} {folder}", "give either recipes or run folders"),
    ("peers.a.model=x", "give at least one recipe or run folder"),
    ("{folder} train.epochs=3", "train.epochs=3 does not go with runs that exist"),
    ("{folder} --control independent", "--control does not go with runs that exist"),
    ("{recipe} --teacher-flops nan", "--teacher-flops nan is no number of operations"),
    ("{recipe} --teacher-flops -1", "--teacher-flops -1.0 is no number of operations"),
    ("{folder}", "is no run folder and holds none"),
    ("nowhere.yaml", "nowhere.yaml: no such file"),
    ("{recipe} train.epohs=3", "unknown key 'epohs'"),
    ("{recipe} seed=3", "give --seeds"),
    ("{recipe} --seeds 3:1", "--seeds: '3:1' are none"),
    ("--control indepndent {recipe}", "--control: 'indepndent' is none"),
    ("{recipe} --control independent train.epohs=3", "unknown key 'epohs'"),
    ("{recipe} --control indepndent", "--control: 'indepndent' is none; did you mean 'independent'?"),
    ("{recipe} --control help", "--control: independent: "),
    ("{recipe} --baseline x", "no arm is called 'x'; choose from pair"),
    ("{recipe} --plot x.pdf", "--plot: x.pdf is no name of a .png or .svg file"),
    ("{recipe} --plot nowhere/x.png", "--plot: nowhere/x.png is no name"),
    ("{recipe} peers.a.weights=nowhere.safetensors", "no weights file nowhere.safetensors"),
    ("{recipe} --launcher nowhere", "--launcher: there is no command 'nowhere'"),
    ("{recipe} --name taken", "taken holds files and not the mark of a comparison"),
    ("{recipe} --name run", "run is a run folder, not a comparison's"),
    ("{recipe} --name file", "file is a file, where the comparison's folder should be"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_a_line_and_nothing_is_trained(line, message, recipe, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    output = tmp_path / "runs"
    (output / "taken").mkdir(parents=True)
    (output / "taken" / "notes.txt").touch()
    (output / "file").touch()
    write_run(output / "run", recipe_document())
    before = sorted(output.rglob("*"))
    given = [word.format(recipe=recipe, folder=tmp_path / "folder") for word in line.split()]
    assert compare.main([*given, "--output", str(output)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mutual: ")
    assert err.count("\n") == 1
    assert message in err
    assert [path for path in sorted(output.rglob("*")) if "compare_" not in str(path)] == before


@pytest.mark.parametrize("words", [["--jobs", "0"], ["--epoch", "first"], ["--json", "--csv"], ["--teacher-flops", "many"]])
def test_wrong_options_are_argparses(words, recipe, capsys):
    with pytest.raises(SystemExit, match="2"):
        compare.main([str(recipe), *words])
    assert "usage: mutual.compare" in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_that_is_killed_leaves_no_training_behind_and_goes_on(recipe):
    folder = recipe.parent / "runs" / "compare_pair"
    line = words(recipe, "--seeds", "0:3")
    job = start("mutual.compare", *line, STAND_IN=json.dumps({"wait": "pair-seed1"}))
    _wait_for(folder / "pair-seed1" / "metrics.jsonl")
    job.kill(signal.SIGKILL)
    assert job.wait(timeout=60) == -signal.SIGKILL
    _wait_for(folder / "pair-seed1.stopped")
    assert not (folder / "pair-seed2").exists()
    assert not (folder / COMPARISON).exists()
    again = run("mutual.compare", *line, "--csv")
    assert [each.split()[0] for each in starts(folder)] == ["pair-seed0", "pair-seed1", "pair-seed1", "pair-seed2"]
    assert "3 runs, 1 finished; 1 at a time" in again.stderr
    assert again.stdout.startswith('"kind"')
    assert len(_lines(folder / "pair-seed1" / "metrics.jsonl")) == 3


@pytest.mark.slow
def test_two_comparisons_in_one_folder_do_not_meet_and_a_signal_ends_one_cleanly(recipe):
    folder = recipe.parent / "runs" / "compare_pair"
    line = words(recipe, "--seeds", "0:2")
    first = start("mutual.compare", *line, STAND_IN=json.dumps({"wait": "pair-seed0"}))
    _wait_for(folder / "pair-seed0" / "metrics.jsonl")
    second = run("mutual.compare", *line, expect=2)
    assert f"mutual: {folder} is being compared in by process " in second.stderr
    assert "wait for that comparison, stop it, or give another --name" in second.stderr
    first.kill(signal.SIGTERM)
    assert first.wait(timeout=60) == 1
    assert "stopped by SIGTERM: 0 of 2 runs are finished; the same command goes on" in first.stderr
    assert (folder / "pair-seed0.stopped").exists()


@pytest.mark.slow
def test_a_run_of_a_comparison_is_the_one_that_training_it_alone_gives(tmp_path):
    """With real trainings."""
    document = tiny_document(name="tiny", train={"epochs": 2}, data={**tiny_document()["data"], "val": 0.25})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(document))
    run("mutual.train", tmp_path / "tiny.yaml", "seed=1", f"output={tmp_path}", "name=alone")
    done = run("mutual.compare", tmp_path / "tiny.yaml", "--seeds", "0:2", "--jobs", "2", "--output", tmp_path, "--name", "both")
    assert "tiny-seed1: done in " in done.stderr
    assert digests(tmp_path / "both" / "tiny-seed1") == digests(tmp_path / "alone")
    assert (tmp_path / "both" / COMPARISON_MARK).is_file()
    record = json.loads((tmp_path / "both" / COMPARISON).read_text())
    assert record["arms"][0]["metrics"]["top1"]["values"].keys() == {"0", "1"}
    assert sys.modules["mutual.compare"].main([str(tmp_path / "both")]) == 0


def _wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def _lines(path):
    return path.read_text().splitlines()
