"""The training goes on while a checkpoint is written; who stops it, and what fails in it, is not forgotten."""

import errno
import os
import signal
import threading

import pytest
import torch
from support import digests, tiny_document
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mutual
from mutual.engine.runtime import StoppedError
from mutual.engine.storage import LOCK, files
from mutual.engine.storage.background import BackgroundWriter
from mutual.engine.storage.checkpoint_store import CheckpointStore, read_checkpoint
from mutual.recipe import InputError, RecipeError, parse_recipe

TIMEOUT = 20


def recipe_of(output, *, every_steps=2, **changes):
    peers = {
        "a": {"model": "support:tiny", "args": {"norm": True, "dropout": 0.3}, "optimizer": {"name": "adamw", "lr": 0.01}},
        "b": {"model": "support:tiny", "args": {"width": 6}},
    }
    checkpoint = {"every_steps": every_steps, "every_epochs": None, "keep": 100}
    train = {"epochs": 2, "progress": False, "ema": 0.9, "log_every": 1}
    return parse_recipe({**tiny_document(output=str(output), peers=peers, train=train, checkpoint=checkpoint), **changes})


def steps(output):
    return sorted(int(path.name.rpartition("_")[2]) for path in output.glob("tiny/checkpoints/step_*"))


class Watch(mutual.Callback):
    """Calls `look(update)` after each update."""

    def __init__(self, look):
        self.look = look

    def update(self, state):
        self.look(state.update)


class SlowDisk:
    """Writes no checkpoint of step `step` before `go_on`, and raises `error` then, if any."""

    def __init__(self, monkeypatch, step, error=None):
        self.begun, self.go_on = threading.Event(), threading.Event()
        save = CheckpointStore.save

        def slow(store, number, contents, **options):
            assert threading.current_thread() is not threading.main_thread()
            if number == step:
                self.begun.set()
                assert self.go_on.wait(TIMEOUT)
                if error is not None:
                    raise error
            return save(store, number, contents, **options)

        monkeypatch.setattr(CheckpointStore, "save", slow)


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_is_of_its_step_however_far_the_training_has_gone_on(tmp_path, monkeypatch):
    """Bit for bit what it is where nothing is slow; the next one waits for it."""
    mutual.fit(recipe_of(tmp_path / "fast"))
    disk, seen = SlowDisk(monkeypatch, 4), {}

    def look(update):
        seen[update] = steps(tmp_path / "slow")
        if update == 5:  # the one of step 4 is not there, and step 6 would wait for it
            assert disk.begun.wait(TIMEOUT)
            disk.go_on.set()

    mutual.fit(recipe_of(tmp_path / "slow"), callbacks=Watch(look))
    assert 4 not in seen[5]
    assert seen[6][:2] == [2, 4], "whole before that of step 6 is begun"
    for step in steps(tmp_path / "fast"):
        fast, slow = (read_checkpoint(tmp_path / speed / "tiny" / "checkpoints" / f"step_{step:08d}") for speed in ("fast", "slow"))
        for name in fast.files.keys() - {"training.pt"}:  # which holds the speeds in metrics.jsonl
            assert fast.files[name] == slow.files[name], (step, name)
    assert digests(tmp_path / "fast" / "tiny") == digests(tmp_path / "slow" / "tiny")


@pytest.mark.parametrize(("step", "last"), [(4, 6), (10, 10)])
def test_a_checkpoint_that_fails_ends_the_run_at_the_next_or_at_the_end(tmp_path, monkeypatch, step, last):
    disk, updates = SlowDisk(monkeypatch, step, FULL), []
    disk.go_on.set()
    with pytest.raises(OSError, match="No space left"):
        mutual.fit(recipe_of(tmp_path), callbacks=Watch(updates.append))
    assert len(updates) in (last - 1, last), "the callback of the update behind which it is waited for is not called"
    assert steps(tmp_path) == [number for number in (2, 4, 6, 8) if number < step]
    monkeypatch.undo()
    mutual.fit(recipe_of(tmp_path), resume=True)
    mutual.fit(recipe_of(tmp_path / "whole"))
    assert digests(tmp_path / "tiny") == digests(tmp_path / "whole" / "tiny")


def test_a_signal_waits_for_its_checkpoint_and_for_the_one_before(tmp_path, monkeypatch):
    disk = SlowDisk(monkeypatch, 3)

    def look(update):
        if update == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Timer(0.3, disk.go_on.set).start()

    with pytest.raises(StoppedError, match="after step 3; the checkpoint is written"):
        mutual.fit(recipe_of(tmp_path, every_steps=3), callbacks=Watch(look))
    assert steps(tmp_path) == [3]


def test_a_signal_whose_checkpoint_fails_is_an_error(tmp_path, monkeypatch):
    disk = SlowDisk(monkeypatch, 3, FULL)
    disk.go_on.set()
    with pytest.raises(OSError, match="No space left"):
        mutual.fit(recipe_of(tmp_path), callbacks=Watch(lambda update: os.kill(os.getpid(), signal.SIGTERM) if update == 3 else None))
    assert steps(tmp_path) == [2]


def test_what_ends_a_run_waits_for_its_checkpoint_before_others_may_write(tmp_path, monkeypatch):
    disk = SlowDisk(monkeypatch, 2)
    held = []

    def look(update):
        if update == 3:
            threading.Timer(0.3, lambda: (held.append((tmp_path / "tiny" / LOCK).exists()), disk.go_on.set())).start()
            raise ZeroDivisionError("a mistake of the user's")

    with pytest.raises(ZeroDivisionError):
        mutual.fit(recipe_of(tmp_path), callbacks=Watch(look))
    assert held == [True], "the folder is locked meanwhile"
    assert steps(tmp_path) == [2]


def test_a_run_that_ends_otherwise_warns_of_a_checkpoint_that_failed(tmp_path, monkeypatch):
    disk = SlowDisk(monkeypatch, 2, FULL)
    disk.go_on.set()

    def look(update):
        if update == 3:
            raise ZeroDivisionError("a mistake of the user's")

    with pytest.warns(UserWarning, match="the last checkpoint was not written .*No space left"), pytest.raises(ZeroDivisionError):
        mutual.fit(recipe_of(tmp_path), callbacks=Watch(look))


def test_a_second_ctrl_c_gives_the_checkpoint_up(tmp_path, monkeypatch):
    """While the first waits for it; the one before stays, and nothing of it is left."""
    write_synced, waiting = files._write_synced, threading.Event()

    def slow(path, content):
        if path.parent.name == ".unfinished-step_00000004" and path.name == "a.pt":
            assert waiting.wait(TIMEOUT)
        write_synced(path, content)

    monkeypatch.setattr(files, "_write_synced", slow)

    def cancel(writer):
        original_cancel(writer)
        waiting.set()

    def look(update):
        if update == 4:
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.setattr(BackgroundWriter, "wait", wait)

    def wait(writer):
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        original_wait(writer)

    original_wait, original_cancel = BackgroundWriter.wait, BackgroundWriter.cancel
    monkeypatch.setattr(BackgroundWriter, "cancel", cancel)
    with pytest.raises(KeyboardInterrupt):
        mutual.fit(recipe_of(tmp_path), callbacks=Watch(look))
    assert [path.name for path in (tmp_path / "tiny" / "checkpoints").iterdir()] == ["step_00000002"]
    monkeypatch.undo()
    mutual.fit(recipe_of(tmp_path), resume=True)
    assert steps(tmp_path)[-1] == 10


def test_memory_for_copies_is_there_after_the_first_update(tmp_path, monkeypatch):
    """So that the first checkpoint waits for no pages."""
    from mutual.engine.training.checkpointer import Checkpointer

    seen, take = [], Checkpointer.files

    def addresses(checkpointer):
        return {path: buffer.data_ptr() for path, (_, buffer) in checkpointer._buffers._buffers.items() if buffer.numel()}

    def files_(self, *arguments):
        before = addresses(self)
        taken = take(self, *arguments)
        seen.append({path for path, address in addresses(self).items() if before.get(path) != address})
        return taken

    monkeypatch.setattr(Checkpointer, "files", files_)
    mutual.fit(recipe_of(tmp_path))
    assert seen[0] == {("a.pt", "buffers")}, "statistics of BatchNorm, which are gathered"
    assert not any(seen[1:])


def test_the_time_that_checkpoints_take_of_the_training_is_charted(tmp_path):
    mutual.fit(recipe_of(tmp_path, every_steps=4))
    events = EventAccumulator(str(tmp_path / "tiny")).Reload().Scalars("speed/checkpoint_seconds")
    assert [event.step for event in events] == [5, 9], "the updates behind them"
    assert all(0 < event.value < TIMEOUT for event in events)


def test_a_peer_cannot_have_the_name_of_the_runs_own_file(tmp_path):
    peers = {"training": {"model": "support:tiny"}, "b": {"model": "support:tiny"}}
    with pytest.raises((RecipeError, InputError), match="cannot name a peer"):
        recipe_of(tmp_path, peers=peers)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_found(value):
    from mutual.engine.training.checkpointer import _is_finite

    weights = torch.ones(3, 4)
    assert _is_finite(weights)
    assert _is_finite(weights[:0])
    assert _is_finite(weights.to(torch.complex64))
    weights[1, 2] = value
    assert not _is_finite(weights)
    assert not _is_finite(weights.to(torch.complex64))
