"""A training that no peer gains from any more ends, on all ranks and wherever it was cut, after the same epoch."""

import json
import math
import shutil

import pytest
from support import WORLD, digests, run, tiny_document

import mutual
from mutual.engine.training.early_stopping import EarlyStopping
from mutual.engine.training.scorer import Scorer
from mutual.recipe import parse_recipe


def stopping(**train):
    return EarlyStopping(parse_recipe(tiny_document(train=train)).resolved(), WORLD)


def rows(*top1s, nll=1.0):
    return {name: {"top1": top1, "nll": nll} for name, top1 in zip("ab", top1s, strict=True)}


def counts(early_stopping, *evaluations):
    """After each evaluation, the number since a peer has improved."""
    counted = []
    for scores in evaluations:
        early_stopping.update(scores)
        counted.append(early_stopping.state_dict()["num_waited"])
    return counted


def test_one_peer_that_improves_its_own_best_is_enough():
    evaluations = [rows(0.5, 0.9), rows(0.6, 0.1), rows(0.6, 0.9), rows(0.1, 0.91), rows(0.6, 0.91)]
    early_stopping = stopping(patience=2)
    assert counts(early_stopping, *evaluations) == [0, 0, 1, 0, 1]
    assert not early_stopping.is_exhausted
    assert counts(early_stopping, rows(0.0, 0.0)) == [2]
    assert early_stopping.is_exhausted
    assert early_stopping.reason == "no peer has improved its top1 in 2 evaluations (train.patience)"


def test_small_improvements_add_up_to_one():
    """What a peer is compared with is its best that counted, so that slow progress is progress."""
    early_stopping = stopping(patience=9, min_improvement=0.1)
    assert counts(early_stopping, *(rows(top1, 0.0) for top1 in (0.5, 0.55, 0.59, 0.65))) == [0, 1, 2, 0]


def test_of_an_nll_the_lower_is_better_and_what_is_not_finite_never_is():
    early_stopping = stopping(patience=9, best_metric="nll")
    evaluations = [rows(0.1, 0.1, nll=nll) for nll in (math.nan, 2.0, 1.0, 1.5, -math.inf, 0.5)]
    assert counts(early_stopping, *evaluations) == [1, 0, 0, 1, 2, 0]


def test_without_a_patience_it_counts_and_never_ends():
    early_stopping = stopping()
    assert counts(early_stopping, *[rows(0.5, 0.5)] * 4) == [0, 1, 2, 3]
    assert not early_stopping.is_exhausted


def test_an_extension_begins_to_count_anew_only_where_nothing_is_left_of_the_patience():
    early_stopping = stopping(patience=2)
    counts(early_stopping, *[rows(0.5, 0.5)] * 2)
    early_stopping.extend()
    assert early_stopping.state_dict()["num_waited"] == 1
    counts(early_stopping, rows(0.5, 0.5))
    early_stopping.extend()
    assert early_stopping.state_dict()["num_waited"] == 0
    assert counts(early_stopping, rows(0.5, 0.5)) == [1], "it still knows what its best was"


def recipe_of(output, **changes):
    document = tiny_document(
        output=str(output),
        peers={"a": {"model": "support:tiny"}},
        objectives=[{"loss": "cross_entropy"}],
        train={"epochs": 9, "progress": False, "patience": 2},
        checkpoint={"every_steps": 1, "keep": 100},
    )
    return parse_recipe({**document, **changes})


@pytest.fixture
def scripted(monkeypatch):
    """The best is that of the second epoch."""
    evaluate = Scorer.evaluate

    def scored(self, update, **options):
        scores = evaluate(self, update, **options)
        scores["a"]["top1"] = {5: 0.25, 10: 0.75}.get(update, 0.5)
        return scores

    monkeypatch.setattr(Scorer, "evaluate", scored)


def test_a_run_stops_and_is_finished_and_goes_on_alike_from_any_checkpoint(scripted, tmp_path, capsys):
    whole = mutual.fit(recipe_of(tmp_path / "whole")).folder
    epochs = [json.loads(line)["epoch"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4], "the best is of the second"
    reason = "stopped after epoch 4: no peer has improved its top1 in 2 evaluations (train.patience)\n"
    assert capsys.readouterr().out.endswith(reason)
    assert json.loads((whole / "best" / "best.json").read_text())["peers"]["a"]["epoch"] == 2
    for step in (7, 15, 19):
        output = tmp_path / str(step)
        folder = shutil.copytree(whole, output / "tiny")
        for path in (folder / "checkpoints").iterdir():
            if int(path.name.removeprefix("step_")) > step:
                shutil.rmtree(path)
        mutual.fit(recipe_of(output), resume=True)
        assert digests(folder) == digests(whole), step
    before = digests(whole)
    capsys.readouterr()
    mutual.fit(recipe_of(tmp_path / "whole"), resume=True)
    printed = capsys.readouterr().out
    assert "nothing is left to train: the run is finished; --extend goes on with it" in printed
    assert printed.endswith(reason)
    assert digests(whole) == before


def test_without_checkpoints_at_epochs_the_last_one_is_written_all_the_same(scripted, tmp_path):
    folder = mutual.fit(recipe_of(tmp_path, checkpoint={"every_epochs": None})).folder
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_00000020"]


@pytest.mark.slow
def test_two_ranks_stop_after_the_same_epoch_as_one(tmp_path):
    """In float64, of peers that improve for a while."""
    import yaml

    document = tiny_document(train={"epochs": 40, "progress": False, "patience": 2}, objectives=[{"loss": "cross_entropy"}])
    found = []
    for processes in (1, 2):
        file = tmp_path / f"{processes}.yaml"
        document["data"] = {**document["data"], "batch_size": 8 // processes}
        file.write_text(yaml.safe_dump(document))
        job = run("mutual.train", file, f"output={tmp_path / str(processes)}", processes=processes)
        found.append(next(line for line in job.stdout.splitlines() if line.startswith("stopped after epoch")))
    assert found[0] == found[1]
