"""What a comparison reads of a finished run."""

import json
import math
import os

import pytest
from stand_in_runs import recipe_document, write_run

from mutual.engine.comparison import Arm, read_arms, read_run
from mutual.engine.comparison.reading import choose_images
from mutual.recipe import InputError, load_recipe


def test_the_best_epoch_the_last_one_and_the_test_images(tmp_path):
    folder = write_run(tmp_path / "run", recipe_document(), seed=2, test=True)
    best, last, test = (read_run(folder, split=split, epoch=epoch) for split, epoch in (("val", "best"), ("val", "last"), ("test", "best")))
    assert last.scores["a"]["top1"] == pytest.approx(0.572)
    assert last.scores["mean"]["top1"] == pytest.approx(0.622)
    assert last.scores["best"] == last.scores["b"]
    assert last.scores["ensemble"]["top1"] == pytest.approx(0.872)
    assert math.isnan(last.scores["ensemble"]["ece"])
    assert "pairs" not in last.scores
    assert best.scores == {name: row for name, row in last.scores.items() if name != "ensemble"}
    assert test.scores["mean"]["top1"] == pytest.approx(1.592)
    assert (test.split, test.epoch, test.best_peer) == ("test", "best", "b")
    assert (test.recipe.seed, test.summary.epoch, len(test.history)) == (2, 3, 3)


def test_the_mean_is_over_the_peers_that_are_trained(tmp_path):
    peers = {"a": {"model": "small_cnn"}, "b": {"model": "small_cnn", "frozen": True}}
    folder = write_run(tmp_path / "run", recipe_document(peers=peers))
    record = read_run(folder, split="val", epoch="last")
    assert record.scores["mean"] == record.scores["a"]


def test_the_images_are_the_test_images_where_all_runs_have_them(tmp_path):
    tested, other = write_run(tmp_path / "a", recipe_document(), test=True), write_run(tmp_path / "b", recipe_document())
    assert choose_images([tested]) == ("test", "best")
    assert choose_images([tested], "last") == ("val", "last")
    assert choose_images([tested, other]) == ("val", "last")
    assert choose_images([tested, other], "best") == ("val", "best")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("summary.json", None, "it is not finished, or of an older version; `python -m mutual.train .*recipe.yaml --resume` finishes it"),
        ("summary.json", "{", "it is not finished, or of an older version"),
        ("metrics.jsonl", "{", "metrics.jsonl is damaged"),
        *(
            ("metrics.jsonl", line, "metrics.jsonl is damaged")
            for line in (
                '{"epoch": 1, "eval": 7}',
                '{"epoch": 1, "eval": {"a": null}}',
                '{"epoch": 1, "eval": {"a": {"top1": "<b>"}}}',
                '{"epoch": 1, "train": [], "eval": {}}',
                '{"epoch": true}',
                '{"epoch": -1}',
                '{"epoch": 1' + "0" * 400 + "}",
                "[" * 100_000,
            )
        ),
        (
            "summary.json",
            '{"epoch": 1' + "0" * 30 + ', "update": 1, "processes": 1, "device": "", "peak_bytes": 1, "sent_bytes": 0}',
            "not fini",
        ),
        ("metrics.jsonl", "", "metrics.jsonl has no evaluation"),
        ("best/best.json", "{", "best.json is damaged"),
        ("recipe.yaml", "name: x\n", "recipe.yaml has no checksum"),
        ("recipe.yaml", None, "is no run folder"),
    ],
)
def test_what_is_missing_or_damaged_is_a_line(name, content, line, tmp_path):
    folder = write_run(tmp_path / "run", recipe_document())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=line):
        read_run(folder, split="val", epoch="last")


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "best/best.json", "test_scores.json", "recipe.yaml"])
def test_a_pipe_in_the_place_of_a_file_is_a_line_and_nobody_waits_for_it(name, tmp_path):
    folder = write_run(tmp_path / "run", recipe_document(), test=True)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError):
        read_run(folder, split="test" if name == "test_scores.json" else "val", epoch="last")


def test_damaged_test_scores_are_a_line_and_not_another_split(tmp_path):
    folder = write_run(tmp_path / "run", recipe_document(), test=True)
    (folder / "test_scores.json").write_text(json.dumps({"test": {}}))
    arm = Arm("pair", load_recipe(recipe_document()))
    with pytest.raises(InputError, match=r"test_scores.json is damaged"):
        read_arms([arm], {"pair": {0: folder}})


def test_a_member_that_was_not_scored_is_a_line(tmp_path):
    folders = {"pair": {0: write_run(tmp_path / "run", recipe_document())}}
    recipe = load_recipe(recipe_document())
    assert read_arms([Arm("pair", recipe, member="ensemble")], folders)[0].runs[0].scores["ensemble"]["nll"] == 1.0
    with pytest.raises(InputError, match="has no scores of 'c'"):
        read_arms([Arm("pair", recipe, member="c")], folders)
    with pytest.raises(InputError, match=r"has no scores of 'ensemble'; .* add --epoch last"):
        read_arms([Arm("pair", recipe, member="ensemble")], folders, epoch="best")
