"""The disk of a run folder: what is measured, what is wrong with it, and that nothing is left behind."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mutual.engine.diagnosis import run_disk as module
from mutual.engine.diagnosis.run_disk import PREFIX, measure_run_disk
from mutual.engine.storage import files, lock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "_WHOLE", 8 * 10**6)


def test_a_folder_is_measured_and_left_as_it_was(tmp_path):
    (tmp_path / "kept").write_text("kept")
    disk = measure_run_disk(tmp_path)
    assert disk.error is None
    assert disk.measured == disk.folder
    assert disk.locks_hold
    assert disk.written_bytes in (module._FIRST, module._WHOLE)
    assert min(disk.bytes_per_second, disk.save_seconds, disk.lock_seconds) > 0
    assert 0 < disk.free_bytes < disk.total_bytes == shutil.disk_usage(tmp_path).total
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_of_a_folder_that_is_not_there_the_nearest_one_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    disk = measure_run_disk(Path("some/runs"))
    assert (disk.folder, disk.measured, disk.error) == ("some/runs", ".", None)
    assert not any(tmp_path.iterdir())


def test_a_slow_disk_is_measured_with_a_small_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_SECONDS", 0.0)
    assert measure_run_disk(tmp_path).written_bytes == module._FIRST


def test_a_full_disk_is_an_error_and_nothing_is_left(tmp_path, monkeypatch):
    def write(path, content):
        path.write_bytes(content[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "_write_synced", write)
    disk = measure_run_disk(tmp_path)
    assert (disk.error, disk.bytes_per_second) == ("No space left on device", None)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    def mkdtemp(*arguments, **named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(module.tempfile, "mkdtemp", mkdtemp)
    assert measure_run_disk(tmp_path / "runs").error == "Read-only file system"


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "runs").write_text("")
    assert measure_run_disk(tmp_path / "runs").error == "Not a directory"


def test_a_disk_that_does_not_answer_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_file", lambda path, content: time.sleep(0.5))
    assert measure_run_disk(tmp_path, timeout=0.05).error == "no answer within 0.05 s"
    time.sleep(0.6)  # until the thread has ended


def test_locks_that_another_process_gets_as_well_do_not_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOCK_AGAIN", "pass")
    assert measure_run_disk(tmp_path).locks_hold is False


def test_a_file_system_without_locks_is_no_warning_but_a_fact(tmp_path, monkeypatch):
    def lockf(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "lockf", lockf)
    assert measure_run_disk(tmp_path).locks_hold is False


def test_the_file_system_is_that_of_the_longest_mount_point(tmp_path, monkeypatch):
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4"), (f"{tmp_path}2", "xfs"), (str(tmp_path / "runs" / "deeper"), "tmpfs")]
    parts = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in mounts]
    monkeypatch.setattr(module.psutil, "disk_partitions", lambda all: parts)
    assert module._file_system(tmp_path / "runs") == "nfs4"
    monkeypatch.setattr(module.psutil, "disk_partitions", lambda all: [])
    assert module._file_system(tmp_path) == "unknown"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_diagnosis_that_is_ended_leaves_nothing_behind(tmp_path, number):
    command = [sys.executable, "-m", "mutual.doctor", "--output", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(f"{PREFIX}*/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert list(tmp_path.iterdir()) == []
    assert (process.returncode, err) in ((1, "mutual: interrupted\n"), (0, ""))
