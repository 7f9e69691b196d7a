"""The tracker's progress bar; what it writes is tested where trainings run."""

import io
import sys
from types import SimpleNamespace

from support import tiny_document

from mutual.engine.monitoring import Tracker
from mutual.recipe import parse_recipe


class Terminal(io.StringIO):
    """Where somebody looks on."""

    def isatty(self):
        return True


def test_the_bar_counts_an_epochs_updates_and_leaves_the_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    closed = []
    shown = SimpleNamespace(tracker=None, finish=lambda: closed.append("tensorboard"))
    accelerator = SimpleNamespace(is_main_process=True, num_processes=1)
    accelerator.init_trackers = lambda name, init_kwargs: accelerator.trackers.append(shown)
    recipe = parse_recipe(tiny_document(train={"epochs": 2, "progress": True}))
    tracker = Tracker(recipe, accelerator, tmp_path, updates_per_epoch=5)
    tracker.close()
    assert not closed, "it was not opened yet"
    tracker.open(step=8, lines=[])
    tracker.begin_epoch(1, done=3)
    tracker.advance()
    tracker._bar.refresh()
    tracker.close()
    assert "epoch 2/2:  80%" in sys.stderr.getvalue()
    assert "4/5" in sys.stderr.getvalue()
    assert sys.stderr.getvalue().split("\r")[-2].isspace(), "the bar is wiped"
    assert closed == ["tensorboard"]
