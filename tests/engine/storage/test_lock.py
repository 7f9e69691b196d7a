"""One training at a time in a run folder; whoever comes second is told who holds it, and death frees it."""

import json
import os
import signal
import socket
import time

import pytest
from support import run, start

from mutual.engine.storage.lock import LOCK, locked
from mutual.recipe import InputError

HOLDER = """
import os, sys, time
from pathlib import Path
from mutual.engine.storage.lock import locked
with locked(Path(sys.argv[1])):
    child = os.fork() if len(sys.argv) > 2 else 1
    if child:
        print("held", child, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "x"


def holder(folder, *extra):
    """A process that holds the folder, and the id of the child that it has forked."""
    job = start("snippet", HOLDER, folder, *extra)
    while not job.stdout.endswith("\n"):
        assert job.poll() is None, job.stderr
        time.sleep(0.005)
    return job, int(job.stdout.split()[1])


def test_a_held_folder_is_refused_with_host_and_process(folder):
    job, _ = holder(folder)
    try:
        with (
            pytest.raises(InputError, match=f"is being trained in by process {job.ranks[0].pid} on {socket.gethostname()}, since"),
            locked(folder),
        ):
            pass
    finally:
        job.kill()


def test_death_frees_the_folder_at_once_even_where_its_worker_processes_live_on(folder):
    job, child = holder(folder, "fork")
    job.kill(alone=True)
    job.wait(timeout=10)
    try:
        os.kill(child, 0)  # it is still there
        with locked(folder):
            assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    finally:
        os.kill(child, signal.SIGKILL)


def test_one_process_cannot_hold_a_folder_twice(folder, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    with locked(folder):
        for again in (folder, tmp_path / "link" / "x"):
            with pytest.raises(InputError, match="by this very process"), locked(again):
                pass
        second = run("snippet", HOLDER, folder, expect=1, timeout=60)
        assert f"process {os.getpid()} on" in second.stderr, "asking has not freed it"
    with locked(folder):
        pass


def test_a_folder_that_was_held_for_nothing_is_gone_again(folder, tmp_path):
    with locked(folder):
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
    with locked(folder):
        (folder / "x").write_text("")
    assert [path.name for path in folder.iterdir()] == ["x"]


def test_a_file_system_without_locks_is_reported(folder, monkeypatch):
    import errno
    import fcntl

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with pytest.warns(UserWarning, match="knows no locks"), locked(folder):
        pass
