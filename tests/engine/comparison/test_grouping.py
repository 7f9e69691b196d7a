"""Runs that exist become arms by what they were trained with."""

import os

import pytest
from stand_in_runs import recipe_document, write_run

from mutual.engine.comparison import find_runs, group_runs
from mutual.engine.comparison.comparison_folder import COMPARISON_MARK
from mutual.engine.comparison.grouping import choose_seeds
from mutual.recipe import InputError

DML = recipe_document()
PLAIN = recipe_document(objectives=[{"loss": "cross_entropy"}])
WARM = recipe_document(objectives=[{"loss": "cross_entropy"}, {"loss": "dml", "temperature": 4}])


def test_runs_are_of_one_arm_whatever_their_seeds_names_and_settings_that_change_no_numbers(tmp_path):
    folders = [
        write_run(tmp_path / "dml-seed0", DML),
        write_run(tmp_path / "dml-seed1", DML, seed=1, overrides=["train.log_every=1", "checkpoint.keep=5", "train.threads=3"]),
        write_run(tmp_path / "plain_s0", PLAIN),
        write_run(
            tmp_path / "plain_s10",
            PLAIN,
            seed=10,
            overrides=["data.workers=1", "train.channels_last=true", "train.pictures=false", "tracking=[]"],
        ),
    ]
    arms, by_seed = group_runs(folders, member="best")
    assert [(arm.name, arm.member) for arm in arms] == [("dml", "best"), ("plain", "best")]
    assert by_seed == {"dml": {0: folders[0], 1: folders[1]}, "plain": {0: folders[2], 10: folders[3]}}


def test_what_follows_from_the_seed_makes_no_arm_of_its_own(tmp_path):
    sections = {"data": {**DML["data"], "val": 0.25, "subset": 20}}
    peers = {"a": {"model": "small_cnn"}, "t": {"model": "small_cnn", "frozen": True}}
    folders = []
    for seed in (0, 1):
        peers["t"]["weights"] = f"runs/teacher-seed{seed}/best/a.safetensors"
        folders.append(write_run(tmp_path / f"kd-{seed}", recipe_document(peers=peers, **sections), seed=seed))
    folders.append(write_run(tmp_path / "kd-fixed", recipe_document(peers=peers, **sections), seed=3, overrides=["data.subset_seed=0"]))
    arms, by_seed = group_runs(folders)
    assert [list(runs) for runs in by_seed.values()] == [[0, 1], [3]]
    assert arms[0].name == "kd"


def test_arms_of_one_name_are_told_apart_by_what_differs(tmp_path):
    folders = [write_run(tmp_path / str(index) / "dml", document) for index, document in enumerate((DML, WARM))]
    arms, _ = group_runs(folders)
    assert [arm.name for arm in arms] == ["dml temperature=1.0", "dml temperature=4.0"]


def test_numbers_of_the_classes_are_called_as_a_recipe_calls_them(tmp_path):
    """Those that a run has counted in its images, which follow from its seed."""
    data = {**DML["data"], "multi_label": True, "subset": 20}
    objectives = [[{"loss": "bce", "class_fraction": numbers}] for numbers in ([0.1] * 10, [0.2] * 10, None)]
    documents = [recipe_document(objectives=each, data=data) for each in objectives]
    folders = [write_run(tmp_path / str(index) / "bce", document, seed=index) for index, document in enumerate(documents)]
    arms, by_seed = group_runs(folders)
    assert [arm.name for arm in arms] == ["bce class_fraction=data", "bce class_fraction=null"]
    assert [list(runs) for runs in by_seed.values()] == [[0, 1], [2]]


def test_runs_of_unlike_names_are_called_by_their_beginning_or_their_models(tmp_path):
    names = [["night_a", "night_b"], ["x", "y"]]
    folders = [
        write_run(tmp_path / name, document, seed=seed)
        for document, pair in zip((DML, PLAIN), names, strict=True)
        for seed, name in enumerate(pair)
    ]
    arms, _ = group_runs(folders)
    assert [arm.name for arm in arms] == ["night", "small_cnn"]


def test_nobody_waits_for_a_pipe_in_the_place_of_a_comparisons_mark(tmp_path):
    os.mkfifo(tmp_path / COMPARISON_MARK)
    arms, _ = group_runs([write_run(tmp_path / "dml-seed0", DML)])
    assert [arm.name for arm in arms] == ["dml"]


def test_two_runs_of_one_seed_are_refused(tmp_path):
    folders = [write_run(tmp_path / name, DML) for name in ("a", "b")]
    with pytest.raises(InputError, match=r"a and .*b are runs of the same recipe and the same seed 0; give one of them"):
        group_runs(folders)


def test_a_folder_stands_for_the_finished_runs_in_it(tmp_path):
    for seed in (0, 9, 10):
        write_run(tmp_path / f"dml-seed{seed}", DML, seed=seed, finished=seed != 9)
    (tmp_path / "notes").mkdir()
    folders, notes = find_runs([tmp_path, tmp_path / "dml-seed0"])
    assert [folder.name for folder in folders] == ["dml-seed0", "dml-seed10"]
    assert notes == [f"{tmp_path / 'dml-seed9'} is left out: it is not finished"]
    with pytest.raises(InputError, match="notes is no run folder and holds none"):
        find_runs([tmp_path / "notes"])


def test_an_unfinished_run_alone_is_refused(tmp_path):
    write_run(tmp_path / "dml", DML, finished=False)
    with pytest.raises(InputError, match="holds no finished run"):
        find_runs([tmp_path])


def test_arms_are_paired_by_the_seeds_that_they_share_with_the_baseline(tmp_path):
    by_seed = {"a": {0: tmp_path, 1: tmp_path}, "b": {1: tmp_path, 2: tmp_path}, "c": {0: tmp_path}}
    assert choose_seeds(by_seed, "a") == [0, 1, 2]
    assert choose_seeds({name: by_seed[name] for name in "ab"}, "a", [1]) == [1]
    with pytest.raises(InputError, match=r"'b' and 'c' have no seed in common.*b: 1, 2; a: 0, 1; c: 0"):
        choose_seeds({name: by_seed[name] for name in "bac"}, "c")
    with pytest.raises(InputError, match="'a' and 'a' have no seed in common among 5"):
        choose_seeds(by_seed, "a", [5])
