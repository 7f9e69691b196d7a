"""A process uses the cores that it may use, unless its user, and not only a launcher, chose a number of threads."""

import os
import warnings
from types import SimpleNamespace

import psutil
import pytest
import torch

from mutual.engine.runtime import LaunchSettings, cores, torch_threads
from mutual.engine.runtime.cores import available_cores, chosen_threads, local_processes
from mutual.group import Communicator
from mutual.recipe import parse_recipe

RECIPE = parse_recipe({"name": "n", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "cross_entropy"}]})
WORLD = Communicator(0, 1, torch.device("cpu"))


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
        (
            {
                "proc/self/cgroup": "4:memory:/a\n1:cpu,cpuacct:/a\n0::/\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
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


LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("variables", "launcher", "words", "threads"),
    [
        ({"OMP_NUM_THREADS": "1"}, {}, [], 1),  # without a launcher
        (LAUNCHED, {}, ["accelerate", "launch", "-m", "mutual.train"], None),
        ({"TORCHELASTIC_RUN_ID": "none", "OMP_NUM_THREADS": "1"}, {}, ["torchrun"], None),
        (LAUNCHED, {"OMP_NUM_THREADS": "1"}, ["accelerate", "launch"], 1),
        (LAUNCHED, {}, ["accelerate", "launch", "--num_cpu_threads_per_process", "1"], 1),
        (LAUNCHED, {}, ["accelerate", "launch", "--num-cpu-threads-per-process=1"], 1),
        (LAUNCHED, None, [], None),  # it cannot be read
    ],
)
def test_what_the_user_chose_is_told_from_what_a_launcher_sets(monkeypatch, variables, launcher, words, threads):
    def environ():
        if launcher is None:
            raise psutil.AccessDenied
        return launcher

    between = SimpleNamespace(environ=lambda: dict(LAUNCHED, **(launcher or {})), cmdline=lambda: ["sh"])  # a script that is launched
    ancestors = [between, SimpleNamespace(environ=environ, cmdline=lambda: words)]
    monkeypatch.setattr(cores.psutil, "Process", lambda: SimpleNamespace(parents=lambda: ancestors))
    for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with torch_threads(1):
        assert chosen_threads() == threads


def test_threads_that_were_set_in_python_are_the_users_choice(monkeypatch):
    monkeypatch.setattr(cores, "_is_chosen", lambda threads: False)
    monkeypatch.setattr(cores, "available_cores", lambda: 8)
    with torch_threads(3):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert chosen_threads() == 3
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert chosen_threads() == 3


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))


@pytest.mark.parametrize(("chosen", "warns"), [(None, True), (8, False)])
def test_a_machine_that_others_use_is_warned_of(monkeypatch, chosen, warns):
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.available_cores", lambda: 8)
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.chosen_threads", lambda: chosen)
    monkeypatch.setattr(os, "getloadavg", lambda: (1e6, 0.0, 0.0))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert LaunchSettings.of(RECIPE, WORLD).threads == 8
    assert any("give train.threads=1" in str(warning.message) for warning in told) == warns


@pytest.mark.parametrize(("chosen", "processes", "threads"), [(None, 1, 8), (None, 3, 2), (None, 9, 1), (5, 3, 5)])
def test_processes_share_the_cores_that_nobody_divided(monkeypatch, chosen, processes, threads):
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.available_cores", lambda: 8)
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.chosen_threads", lambda: chosen)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert LaunchSettings.of(RECIPE, WORLD).threads == threads


def test_beside_a_gpu_threads_stay_what_the_process_has(monkeypatch):
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.chosen_threads", lambda: None)
    with torch_threads(3):
        assert LaunchSettings.of(RECIPE, Communicator(0, 1, torch.device("cuda"))).threads == 3
