"""A finished run says so, and what it took; one that was cut does not."""

import pytest
from support import tiny_document

import mutual
from mutual.engine import RunFolder
from mutual.engine.training import Callback
from mutual.recipe import parse_recipe


def recipe(output, **sections):
    return parse_recipe(tiny_document(output=str(output), train={"epochs": 2, "progress": False}, **sections))


def test_a_finished_run_has_a_summary(tmp_path):
    result = mutual.fit(recipe(tmp_path))
    folder = RunFolder(result.folder)
    summary = folder.read_summary()
    assert (summary.epoch, summary.update) == (2, folder.history()[-1]["step"])
    assert (summary.processes, summary.device, summary.sent_bytes) == (1, "cpu", 0)
    assert summary.peak_bytes > 1e7, "a process with torch takes more"
    written = (result.folder / "summary.json").read_bytes()
    mutual.fit(recipe(tmp_path), resume=True)
    assert (result.folder / "summary.json").read_bytes() == written, "nothing was trained"


def test_a_run_that_is_cut_has_none_and_one_that_begins_anew_loses_it(tmp_path):
    class Fails(Callback):
        def epoch(self, state):
            raise OSError("the end")

    folder = RunFolder(mutual.fit(recipe(tmp_path)).folder)
    with pytest.raises(OSError, match="the end"):
        mutual.fit(recipe(tmp_path), overwrite=True, callbacks=Fails())
    assert folder.read_summary() is None
    mutual.fit(recipe(tmp_path), resume=True)
    assert folder.read_summary().epoch == 2
