"""Cores: affinity, the limits of cgroups, and the processes that share a machine."""

import os

import pytest

from mutual.data import cores
from mutual.data.cores import available_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 16 cores; writes files of cgroups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "_OWN_CGROUPS", tmp_path / "own")

    def write(own, **files):
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            file = tmp_path / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    return write


def test_without_cgroups_the_affinity_counts(machine):
    assert available_cores() == 16


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu_max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu_max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu_max": "250000 100000\n"}, 2),
        ("0::/job/step\n", {"job__cpu_max": "400000 100000\n", "job__step__cpu_max": "max 100000\n"}, 4),
        ("0::/../other\n", {"cpu_max": "300000 100000"}, 3),
        (
            "3:cpu,cpuacct:/box\n1:name=systemd:/\n",
            {"cpu,cpuacct__box__cpu_cfs_quota_us": "300000", "cpu,cpuacct__box__cpu_cfs_period_us": "100000"},
            3,
        ),
        ("3:cpu,cpuacct:/\n", {"cpu,cpuacct__cpu_cfs_quota_us": "-1", "cpu,cpuacct__cpu_cfs_period_us": "100000"}, 16),
        ("0::/\n", {"cpu_max": "what\n"}, 16),
    ],
)
def test_the_smallest_limit_counts(machine, own, files, expected):
    machine(own, **files)
    assert available_cores() == expected


@pytest.mark.parametrize(("processes", "expected"), [("1", 16), ("3", 5), ("40", 1), ("", 16), ("many", 16), ("0", 16)])
def test_the_processes_of_a_machine_share_its_cores(machine, monkeypatch, processes, expected):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert available_cores() == expected
