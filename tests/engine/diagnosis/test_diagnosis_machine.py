"""What /proc, /sys and psutil say of a machine: made-up texts, and this machine."""

import os
import resource

import pytest

from mutual.engine.diagnosis.machine import driver_version, memory_limit, read_machine

DRIVERS = [
    ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\nGCC version:  gcc 12.3.0\n", "535.54.03"),
    ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build  (me@there)\n", "550.54.14"),
    ("something else\n", None),
]


def written(root, **texts):
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(("text", "version"), DRIVERS)
def test_the_drivers_version_is_read(tmp_path, text, version):
    assert driver_version(written(tmp_path, proc__driver__nvidia__version=text)) == version


def test_there_is_no_driver_where_the_kernel_names_none(tmp_path):
    assert driver_version(tmp_path) is None


def test_the_memory_limit_is_the_lowest_of_the_cgroups_of_version_2(tmp_path):
    written(tmp_path, proc__self__cgroup="0::/slice/box\n")
    for folder, limit in (("", "max"), ("slice/", "4000000\n"), ("slice/box/", "9000000\n")):
        path = tmp_path / "sys/fs/cgroup" / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "memory.max").write_text(limit)
    assert memory_limit(tmp_path) == 4_000_000


def test_the_memory_limit_of_version_1_is_none_where_it_is_beyond_all_memory(tmp_path):
    written(tmp_path, proc__self__cgroup="5:memory:/box\n3:cpu,cpuacct:/box\n")
    path = tmp_path / "sys/fs/cgroup/memory/box"
    path.mkdir(parents=True)
    (path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory_limit(tmp_path) is None
    (path / "memory.limit_in_bytes").write_text("123456789\n")
    assert memory_limit(tmp_path) == 123_456_789


def test_without_cgroups_there_is_no_memory_limit(tmp_path):
    assert memory_limit(tmp_path) is None


def test_a_machine_is_read_where_proc_and_sys_say_nothing(tmp_path):
    machine = read_machine(tmp_path)
    assert machine.processor
    assert (machine.cpu_quota, machine.memory_limit_bytes, machine.shared_bytes) == (None, None, None)
    assert 1 <= machine.usable_cores <= machine.logical_cores


def test_this_machine_has_what_the_system_says():
    machine = read_machine()
    assert machine.logical_cores == os.cpu_count()
    assert machine.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 0 < machine.available_bytes <= machine.memory_bytes


def test_the_quota_of_cores_is_read(tmp_path):
    written(tmp_path, proc__self__cgroup="0::/box\n")
    (tmp_path / "sys/fs/cgroup/box").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/box/cpu.max").write_text("150000 100000\n")
    machine = read_machine(tmp_path)
    assert (machine.cpu_quota, machine.usable_cores) == (1.5, 1)
