"""Test images are scored once, at the end of a run, by the best weights, and choose nothing."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from support import charted, digests, run, tiny_document
from taught import DIGITS, document

import mutual
from mutual import evaluate
from mutual.engine import RunFolder, evaluate_run, peer_files
from mutual.engine.training import Callback
from mutual.engine.training.scorer import Scorer
from mutual.recipe import InputError, RecipeError, load_recipe, parse_recipe

FACTORIES = ["support:double"]


def with_test(output, **sections):
    """A run of two tiny peers with test images."""
    whole = tiny_document(**{"output": str(output), "train": {"epochs": 3, "progress": False, "ema": 0.5}, **sections})
    return {**whole, "data": {**tiny_document()["data"], "num_val": 13, "val": 0.2, **sections.get("data", {})}}


def fit(document, **options):
    return mutual.fit(parse_recipe(document), **options)


def evaluated(folder, split, **options):
    run_folder = RunFolder(folder)
    return evaluate_run(run_folder.recipe(), peer_files(run_folder, None), factories=FACTORIES, split=split, **options)


def worsen(monkeypatch):
    """Makes the scores of each later epoch worse, so that the first epoch's weights are the best."""
    evaluate = Scorer.evaluate

    def later_is_worse(self, update, **options):
        return {name: {**row, "top1": 1 / update} if "top1" in row else row for name, row in evaluate(self, update, **options).items()}

    monkeypatch.setattr(Scorer, "evaluate", later_is_worse)


def write_folders(root, parts, seed=0):
    generator = np.random.default_rng(seed)
    for part, number in parts.items():
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                Image.fromarray(generator.integers(0, 256, (8, 8), np.uint8)).save(root / part / name / f"{index}.png")


def folders(root, output, **data):
    return tiny_document(
        output=str(output), data={"dataset": "image_folder", "root": str(root), "image_size": 8, "channels": 1, "batch_size": 6, **data}
    )


def test_the_best_weights_tell_and_the_last_ones_stay(tmp_path, monkeypatch, capsys):
    worsen(monkeypatch)
    seen = {}

    class Look(Callback):
        def end(self, state):
            seen.update({name: model.state_dict() for name, model in state.models.items()})
            seen["there"] = (state.folder / "test_scores.json").exists()

    result = fit(with_test(tmp_path, train={"epochs": 3, "progress": False}), callbacks=Look())
    assert {row["epoch"] for row in result.best_scores.values()} == {1}
    record = json.loads((result.folder / "test_scores.json").read_text())
    assert record["test"] == result.test == evaluated(result.folder, "test")
    assert (record["images"], record["peer"]) == (13, result.best_peer)
    assert list(result.test) == ["a", "b", "ensemble", "pairs"]
    assert evaluated(result.folder, "test") != evaluated(result.folder, "val") != evaluated(result.folder, "train")
    assert seen.pop("there")
    for name, model in seen.items():
        last = safetensors.torch.load_file(result.folder / "last" / f"{name}.safetensors")
        assert all(torch.equal(model[key], last[key]) for key in last), "a callback sees the weights that were trained last"
    row = result.test["a"]
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("test,"))
    scores = f"top1 {row['top1']:.2%}, nll {row['nll']:.4f}, ece {row['ece']:.4f}"
    assert line.startswith(f"test, 13 images, by the best weights: a: {scores}; b: ")
    (point,) = charted(result.folder)["test/top1/a"]
    assert (point.step, point.value) == (12, pytest.approx(row["top1"]))
    assert f"on test top1 {result.test[result.best_peer]['top1']:.4g}" in repr(result)


def test_averages_are_what_is_scored(tmp_path):
    result = fit(with_test(tmp_path))
    assert result.test == evaluated(result.folder, "test")


def test_teachers_are_scored_too(teacher, tmp_path):
    data = {**DIGITS, "val": 0.2}
    result = fit(document(tmp_path, teacher, data=data))
    assert list(result.test) == ["s", "t"]
    assert result.test["t"] != result.metrics["t"]
    plain = fit(document(tmp_path, teacher, name="plain"))
    assert result.test["t"] == pytest.approx(plain.metrics["t"]), "what digits holds out itself is the test split"


def test_test_images_change_nothing_else(tmp_path):
    write_folders(tmp_path / "data", {"train": 9, "val": 4, "test": 5})
    plain, whole = (fit(folders(tmp_path / "data", tmp_path / name, **data)) for name, data in (("1", {}), ("2", {"test": "test"})))
    expected, found = digests(plain.folder), digests(whole.folder)
    assert found.pop("test")
    assert found == expected
    assert plain.test == {}
    assert not (plain.folder / "test_scores.json").exists()
    assert whole.test.keys() == {"a", "b", "ensemble", "pairs"}


def test_a_folder_that_is_not_named_is_told_of(tmp_path, capsys):
    write_folders(tmp_path / "data", {"train": 3, "val": 3, "test": 3})
    fit({**folders(tmp_path / "data", tmp_path), "train": {"epochs": 1, "progress": False}})
    assert f"note: {tmp_path / 'data' / 'test'} is there and is not read" in capsys.readouterr().out


def test_a_run_that_is_cut_before_its_scores_has_them_when_it_goes_on(tmp_path, monkeypatch):
    whole = fit(with_test(tmp_path / "whole"))
    score, scored = Scorer.score_test, []

    def fail(self, update):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scorer, "score_test", fail)
    with pytest.raises(KeyboardInterrupt):
        fit(with_test(tmp_path / "cut"))
    monkeypatch.setattr(Scorer, "score_test", lambda self, update: scored.append(update) or score(self, update))
    cut = fit(with_test(tmp_path / "cut"), resume=True)
    assert cut.test == whole.test
    assert digests(cut.folder) == digests(whole.folder)
    again = fit(with_test(tmp_path / "cut"), resume=True)
    assert again.test == whole.test
    assert scored == [12], "what is there is not scored again"
    (again.folder / "test_scores.json").write_text("{}")
    assert fit(with_test(tmp_path / "cut"), resume=True).test == whole.test
    assert scored == [12, 12], "what is damaged is"
    fit(tiny_document(output=str(tmp_path / "cut")), overwrite=True)
    assert not (again.folder / "test_scores.json").exists()


def test_scores_do_not_depend_on_which_epochs_are_kept_beside_the_best(tmp_path, monkeypatch):
    document = with_test(tmp_path, checkpoint={"keep": 100, "keep_best": 2}, train={"epochs": 2, "progress": False})
    folder = fit(document).folder
    written = (folder / "test_scores.json").read_text()
    for path in (folder / "checkpoints").iterdir():
        if path.name != "step_00000004":
            shutil.rmtree(path)
    monkeypatch.setattr(Scorer, "score_test", None)
    fit({**document, "checkpoint": {"keep_best": 1}}, resume=True)
    assert (folder / "test_scores.json").read_text() == written


def test_a_run_does_not_go_on_with_other_test_images(tmp_path):
    write_folders(tmp_path / "data", {"train": 3, "val": 3, "test": 3})
    fit(folders(tmp_path / "data", tmp_path, test="test"))
    (tmp_path / "data" / "test" / "cat" / "0.png").rename(tmp_path / "data" / "test" / "cat" / "9.png")
    with pytest.raises(RecipeError, match="not the data that the run was started with: other test images or labels, as many of each"):
        fit(folders(tmp_path / "data", tmp_path, test="test"), resume=True)
    with pytest.raises(RecipeError, match="number of test images: 6 then, null now"):
        fit(folders(tmp_path / "data", tmp_path), resume=True)


@pytest.mark.filterwarnings("ignore:.*is no image")
def test_images_that_cannot_be_read_are_left_out_of_the_scores(tmp_path, capsys):
    write_folders(tmp_path / "data", {"train": 4, "val": 2, "test": 4})
    for part in ("train", "test"):
        (tmp_path / "data" / part / "dog" / "1.png").write_bytes(b"")
    document = folders(tmp_path / "data", tmp_path, test="test", on_bad_image="skip")
    result = fit({**document, "train": {"epochs": 1, "progress": False}})
    assert "note: test: 1 test image could not be read and is left out of the scores" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="1 training image could not be read and is left out of the scores"):
        evaluated(result.folder, "train")
    assert (result.test["a"]["top1"] * 7) % 1 == pytest.approx(0, abs=1e-5)


def test_a_run_is_scored_on_images_of_another_folder(tmp_path, capsys):
    write_folders(tmp_path / "data", {"train": 4, "val": 2})
    write_folders(tmp_path / "more", {".": 5}, seed=1)
    result = fit(folders(tmp_path / "data", tmp_path))
    words = [str(result.folder), "--split", "test", "--factory", FACTORIES[0]]
    assert evaluate.main(words) == 2
    assert "data.test: the run has no test images; name a folder or list of some, as data.test=PATH" in capsys.readouterr().err
    assert evaluate.main([*words, f"data.test={tmp_path / 'more'}"]) == 0


def test_what_was_held_out_is_held_out_when_a_run_is_evaluated(tmp_path, capsys):
    write_folders(tmp_path / "data", {".": 20})
    recipe = folders(tmp_path / "data", tmp_path, train=".", val=0.2, test=0.2)
    result = fit({**recipe, "seed": 5})
    assert load_recipe(result.folder / "recipe.yaml").data.split_seed == 5
    assert evaluated(result.folder, "test") == result.test
    assert evaluate.main([str(result.folder), "--split", "test", "--json", "--factory", FACTORIES[0]]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result.test
    for override in ("data.split_seed=6", "data.test=0.1"):
        assert evaluate.main([str(result.folder), override]) == 2
        assert "and on some of the images that this holds out; give that value" in capsys.readouterr().err
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    run_folder = RunFolder(result.folder)
    files = peer_files(run_folder, None)
    assert evaluate_run(run_folder.recipe([f"data.root={moved}"]), files, factories=FACTORIES, split="test") == result.test


def test_a_run_without_test_images_is_told_in_a_line(tmp_path):
    result = fit(tiny_document(output=str(tmp_path)))
    with pytest.raises(InputError, match=r"data\.test: the data have no test images; name some here"):
        evaluated(result.folder, "test")


@pytest.mark.slow
def test_each_test_image_is_counted_once_on_several_ranks_in_either_placement(tmp_path):
    one = fit(with_test(tmp_path, name="one", data={"batch_size": 16}))
    paths = []
    for placement in ("replicated", "parallel"):
        paths.append(tmp_path / f"{placement}.yaml")
        paths[-1].write_text(yaml.safe_dump({**with_test(tmp_path, name=placement), "placement": placement}))
    done = run("train_all", *paths, processes=2)
    assert done.stdout.count("test, 13 images") == 2
    for placement in ("replicated", "parallel"):
        found = json.loads((tmp_path / placement / "test_scores.json").read_text())["test"]
        for member, row in one.test.items():
            assert found[member] == pytest.approx(row, abs=1e-6), member
    scores = run("mutual.evaluate", tmp_path / "parallel", "--split", "test", "--factory", FACTORIES[0], "--json", processes=2)
    assert json.loads(scores.stdout)["ensemble"] == pytest.approx(one.test["ensemble"], abs=1e-6)
