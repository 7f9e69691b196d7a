"""fit closes what it has built, and an error of the main process's disk is one of all ranks."""

import gc
import weakref
from functools import partial

import pytest
import yaml
from attacks import fill_disk
from support import run, tiny_document

import mutual
from mutual.data import DataModule
from mutual.engine.monitoring import StragglerMonitor
from mutual.engine.storage import METRICS
from mutual.recipe import RecipeError, parse_recipe


def test_whatever_fails_before_the_first_update_the_trainer_is_closed(tmp_path, monkeypatch):
    """A hang watchdog that goes on would report a process that only waits for its user."""
    closed = []
    for kind in (StragglerMonitor, DataModule):
        monkeypatch.setattr(kind, "close", lambda self: closed.append(type(self)))
    document = tiny_document(output=str(tmp_path), train={"epochs": 1, "progress": False})
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / ".mutual-run.json").write_text('{"peers": ["a", "b"]}')
    (tmp_path / "tiny" / METRICS).mkdir()
    with pytest.raises(IsADirectoryError, match=METRICS):
        mutual.fit(parse_recipe(document))
    assert closed == [StragglerMonitor, DataModule]
    (tmp_path / "tiny" / METRICS).rmdir()
    mutual.fit(parse_recipe(document))
    closed.clear()
    other_data = parse_recipe({**document, "data": {**document["data"], "num_val": 13}})
    monkeypatch.setattr("mutual.engine.storage.opening.check_resumed", lambda *_: None)
    with pytest.raises(RecipeError, match="these are not the data"):
        mutual.fit(other_data, resume=True)
    assert closed == [StragglerMonitor, DataModule]


@pytest.mark.slow
@pytest.mark.parametrize("write", [3, 5, 10, 11], ids=["metrics of the start", "last weights", "best.json", "metrics of an epoch"])
def test_a_full_disk_of_the_main_process_ends_all_ranks_with_its_error(tmp_path, write):
    """Where ranks fail alike, the line names none of them."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_document()))
    done = run("mutual.train", tmp_path / "recipe.yaml", f"output={tmp_path}", processes=2, prepare=partial(fill_disk, write), expect=1)
    lines = [line for line in done.stderr.splitlines() if "No space left on device" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"mutual: {tmp_path}"), lines


def test_nothing_of_a_training_lives_on_when_it_has_ended(tmp_path):
    """Whoever compares settings in one process would run out of memory."""
    document = tiny_document(output=str(tmp_path), train={"epochs": 1, "progress": False})
    alive = []
    mutual.fit(parse_recipe(document), callbacks=Begun(alive))
    gc.collect()
    assert alive
    assert not any(reference() for reference in alive)


class Begun(mutual.Callback):
    """Keeps weak references to the peers' models."""

    def __init__(self, alive):
        self.alive = alive

    def begin(self, state):
        self.alive += [weakref.ref(model) for model in state.models.values()]
