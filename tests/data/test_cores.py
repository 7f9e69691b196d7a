"""Cores: affinity, the limits of cgroups, and the processes that share a machine."""

import os

import pytest

from mutual.data import build_data
from mutual.data.loading import cores
from mutual.data.loading.cores import available_cores, default_workers, local_processes
from mutual.data.loading.plan import EpochPlan
from mutual.recipe import Data


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def eight_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


def test_hardware_threads_of_a_core_count_once(tmp_path, eight_cpus):
    assert available_cores(tmp_path) == 8, "a system that does not say"
    write(tmp_path, {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}\n" for cpu in range(8)})
    assert available_cores(tmp_path) == 4


@pytest.mark.parametrize(
    ("files", "number"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/on/the/host\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "what\n"}, 8),
        ({"proc/self/cgroup": "0::/../other\n", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "4:memory:/a\n1:cpu,cpuacct:/a\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
    ],
)
def test_control_groups_limit_the_cores(tmp_path, eight_cpus, files, number):
    write(tmp_path, files)
    assert available_cores(tmp_path) == number


@pytest.mark.parametrize(("text", "number"), [("", 1), ("4", 4), ("0", 1), ("many", 1)])
def test_the_processes_of_a_machine_are_what_the_launcher_says(monkeypatch, text, number):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
    assert local_processes() == number


@pytest.mark.parametrize(("num_batches", "num_cores", "expected"), [(1_000, 16, 8), (1_000, 4, 3), (1_000, 1, 0), (47, 16, 2), (15, 16, 0)])
def test_the_default_leaves_a_core_and_starts_no_process_for_few_batches(num_batches, num_cores, expected, monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: num_cores)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert default_workers(num_batches) == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_cores))
    assert default_workers(num_batches) == 0, "each process has a core"


@pytest.mark.parametrize(("workers", "expected"), [(None, 0), (0, 0), (3, 3)])
def test_images_in_memory_are_loaded_in_the_process(workers, expected, monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 16)
    data = build_data(Data(dataset="digits", batch_size=2, workers=workers), seed=0)
    assert data.num_workers(world_size=1, accumulate=1) == expected


@pytest.mark.parametrize(("num_samples", "plan"), [(1, (4, 1, 1)), (64, (4, 4, 2)), (65, (4, 4, 2)), (81, (4, 4, 2)), (33, (5, 1, 3))])
def test_the_micro_batches_of_an_epoch_are_counted(num_samples, plan):
    epoch = EpochPlan(num_samples, *plan, seed=0)
    assert epoch.num_micro_batches == sum(len(epoch.micro_sizes(window)) for window in range(epoch.num_windows))
