"""Cores: affinity, the limits of cgroups, and the processes that share a machine."""

import os

import pytest

from mutual.data import build_data, cores
from mutual.data.cores import available_cores, default_workers
from mutual.data.plan import EpochPlan
from mutual.recipe import Data


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


@pytest.mark.parametrize(("num_batches", "num_cores", "expected"), [(1_000, 16, 8), (1_000, 4, 3), (1_000, 1, 0), (47, 16, 2), (15, 16, 0)])
def test_the_default_leaves_a_core_and_starts_no_process_for_few_batches(num_batches, num_cores, expected, monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: num_cores)
    assert default_workers(num_batches) == expected


@pytest.mark.parametrize(("workers", "expected"), [(None, 0), (0, 0), (3, 3)])
def test_images_in_memory_are_loaded_in_the_process(workers, expected, monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 16)
    data = build_data(Data(dataset="digits", batch_size=2, workers=workers), seed=0)
    assert data.num_workers(world_size=1, accumulate=1) == expected


@pytest.mark.parametrize(("num_samples", "plan"), [(1, (4, 1, 1)), (64, (4, 4, 2)), (65, (4, 4, 2)), (81, (4, 4, 2)), (33, (5, 1, 3))])
def test_the_micro_batches_of_an_epoch_are_counted(num_samples, plan):
    epoch = EpochPlan(num_samples, *plan, seed=0)
    assert epoch.num_micro_batches == sum(len(epoch.micro_sizes(window)) for window in range(epoch.num_windows))
