"""The weights of each peer's best epochs: which stay, what best.json says of them, what a resumed run believes, who can name one."""

import json
import math
import random
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import yaml
from attacks import die_before_change, record
from support import digests, run, tiny_document

import mutual
from mutual import evaluate, export
from mutual.engine.storage import RunFolder
from mutual.engine.training.scorer import Scorer
from mutual.recipe import InputError, parse_recipe

TOP1 = {"a": [0.2, 0.6, 0.4, 0.6, 0.5], "b": [0.5, 0.4, 0.3, 0.2, 0.1]}


@pytest.fixture
def scripted(monkeypatch):
    """The peers' accuracies are those above."""
    evaluate = Scorer.evaluate

    def scored(self, update, **options):
        scores = evaluate(self, update, **options)
        for name, top1s in TOP1.items():
            scores[name] |= {"top1": top1s[update // 5 - 1], "nll": 1.0}
        return scores

    monkeypatch.setattr(Scorer, "evaluate", scored)


def document(output, **checkpoint):
    peers = {name: {"model": "small_cnn", "args": {"widths": [4], "strides": [2]}} for name in "ab"}
    train = {"epochs": 5, "progress": False}
    return tiny_document(output=str(output), peers=peers, train=train, checkpoint={"keep_best": 2, "keep": 100, **checkpoint})


def fit(output, *, resume=False, **checkpoint):
    return mutual.fit(parse_recipe(document(output, **checkpoint)), resume=resume).folder


def kept(folder):
    """The epochs of best.json, best first, and those on the disk."""
    rows = RunFolder(folder).read_best().kept
    files = {name: sorted(int(path.stem.partition("epoch")[2]) for path in (folder / "best").glob(f"{name}-epoch*")) for name in "ab"}
    return {name: [row["epoch"] for row in rows.get(name, [])] for name in "ab"}, files


def cut(whole, output, epochs):
    folder = shutil.copytree(whole, output / "tiny")
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > 5 * epochs:
            shutil.rmtree(path)
    return folder


def test_the_best_epochs_stay_and_of_equal_ones_the_first(scripted, tmp_path):
    folder = fit(tmp_path)
    assert kept(folder) == ({"a": [2, 4], "b": [1, 2]}, {"a": [2, 4], "b": [1, 2]})
    best = RunFolder(folder).read_best()
    assert {file for file in best.sha256 if "-" in file} == {"best/a-epoch2", "best/a-epoch4", "best/b-epoch1", "best/b-epoch2"}
    assert [row["top1"] for row in best.kept["a"]] == [0.6, 0.6]
    assert (folder / "best" / "a.safetensors").read_bytes() == (folder / "best" / "a-epoch2.safetensors").read_bytes()
    first, last = (safetensors.torch.load_file(folder / "best" / f"a-epoch{epoch}.safetensors") for epoch in (2, 4))
    assert not all(value.equal(last[name]) for name, value in first.items())


def test_without_it_none_stay_and_best_json_is_as_ever(scripted, tmp_path):
    folder = fit(tmp_path, keep_best=None)
    assert {path.name for path in (folder / "best").iterdir()} == {"a.safetensors", "b.safetensors", "best.json"}
    assert json.loads((folder / "best" / "best.json").read_text()).keys() == {"peer", "metric", "peers", "sha256"}


@pytest.mark.parametrize("epochs", [1, 3, 4])
def test_a_run_that_goes_on_keeps_what_it_would_have_kept(scripted, tmp_path, epochs):
    whole = fit(tmp_path / "whole")
    folder = cut(whole, tmp_path, epochs)
    fit(tmp_path, resume=True)
    assert digests(folder) == digests(whole)


def test_what_is_lost_is_told_and_kept_no_longer(scripted, tmp_path):
    folder = cut(fit(tmp_path / "whole"), tmp_path, 3)
    (folder / "best" / "a-epoch2.safetensors").write_bytes(b"torn")
    with pytest.warns(UserWarning, match=r"best/a-epoch2.safetensors is missing or damaged; it is kept no longer"):
        fit(tmp_path, resume=True)
    assert kept(folder)[0]["a"] == [4, 5]
    assert (folder / "best" / "a-epoch2.safetensors").read_bytes() == b"torn", "nothing that the run has not written is removed"


def test_another_number_holds_from_the_next_epoch_on_and_none_removes_nothing(scripted, tmp_path):
    whole = fit(tmp_path / "whole")
    folder = cut(whole, tmp_path / "one", 4)
    fit(tmp_path / "one", resume=True, keep_best=1)
    assert kept(folder) == ({"a": [2], "b": [1]}, {"a": [2], "b": [1]})
    folder = cut(whole, tmp_path / "none", 4)
    fit(tmp_path / "none", resume=True, keep_best=None)
    assert kept(folder) == kept(whole)


def test_scores_that_are_not_finite_are_the_worst(scripted, tmp_path, monkeypatch):
    monkeypatch.setitem(TOP1, "a", [math.nan, 0.1, math.nan, 0.0, math.nan])
    folder = fit(tmp_path / "whole")
    assert kept(folder)[0]["a"] == [2, 4]
    again = cut(folder, tmp_path, 1)
    fit(tmp_path, resume=True)
    assert digests(again) == digests(folder)


def test_overwrite_removes_them_and_no_file_of_the_users(scripted, tmp_path):
    folder = fit(tmp_path)
    (folder / "best" / "a-epoch2-mine.safetensors").write_bytes(b"mine")
    (folder / "best" / ".unfinished-b-epoch9.safetensors").write_bytes(b"half")
    export.main([str(folder), "--peer", "a", "--epoch", "4"])
    assert (folder / "export" / "a-epoch4.safetensors").is_file()
    mutual.fit(parse_recipe({**document(tmp_path, keep_best=None), "train": {"epochs": 1, "progress": False}}), overwrite=True)
    names = {path.name for path in (folder / "best").iterdir()}
    assert names == {"a.safetensors", "b.safetensors", "best.json", "a-epoch2-mine.safetensors"}
    assert not (folder / "export" / "a-epoch4.safetensors").exists()


def test_an_epoch_can_be_named(scripted, tmp_path, capsys):
    folder = fit(tmp_path)
    capsys.readouterr()
    assert evaluate.main([str(folder), "--peer", "a", "--epoch", "4", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["a"]
    model = mutual.load_peer(folder, peer="a", epoch=4)
    expected = safetensors.torch.load_file(folder / "best" / "a-epoch4.safetensors")
    assert all(value.equal(expected[name]) for name, value in model.state_dict().items())
    assert evaluate.main([str(folder), "--epoch", "4"]) == 2
    assert "has not kept the weights of epoch 4 of peer 'b'; it has kept those of epochs 1, 2" in capsys.readouterr().err
    fit(tmp_path / "none", keep_best=None)
    with pytest.raises(InputError, match=r"epoch 4 of peer 'a'; it has kept those of none, as checkpoint.keep_best was not set"):
        mutual.load_peer(tmp_path / "none" / "tiny", peer="a", epoch=4)
    (folder / "best" / "a-epoch4.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"a-epoch4.safetensors is damaged"):
        mutual.load_peer(folder, peer="a", epoch=4)


@pytest.mark.slow
@pytest.mark.faults
def test_killed_between_two_changes_of_the_folder(tmp_path, pytestconfig):
    """Most of all where weights of an epoch are written and removed."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document("is given on the command line", every_epochs=2, keep=2)))

    def arguments(output):
        return ["mutual.train", recipe, f"output={output}", "--resume"]

    log = tmp_path / "log"
    run(*arguments(tmp_path / "whole"), prepare=partial(record, tmp_path / "whole" / "tiny", log))
    expected = digests(tmp_path / "whole" / "tiny")
    changes = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines() if line.startswith("change")]
    of_epochs = [number for number, change in enumerate(changes, 1) if "-epoch" in change or "best.json" in change]
    removed = [number for number in of_epochs if "remove" in changes[number - 1]]
    assert removed, "some epochs are kept no longer"
    numbers = of_epochs if pytestconfig.getoption("--faults-long") else [removed[0], *random.Random(0).sample(of_epochs, 4)]
    for number in numbers:
        output = Path(tmp_path / str(number))
        run(*arguments(output), prepare=partial(die_before_change, output / "tiny", number), expect=-signal.SIGKILL)
        run(*arguments(output))
        assert digests(output / "tiny") == expected, changes[number - 1]
