"""Cores: how many of the machine's this process may use, and how many processes share them."""

from __future__ import annotations

import math
import os
from pathlib import Path

from mutual.data.loading.cgroups import cgroup_folders

_MAX_WORKERS = 8
_BATCHES_FOR_A_WORKER = 16


def available_cores(root: Path = Path("/")) -> int:
    """Returns the number of physical cores that this process may use, at least 1.

    Its affinity and the limits of its cgroups count (a container's `--cpus=2`, which `os.cpu_count` does not know).

    Args:
        root: where `/proc` and `/sys` are.
    """
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = len({_siblings(cpu, root) for cpu in cpus})
    quota = cpu_quota(root)
    return max(1, cores if quota is None else math.floor(min(cores, quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Returns how many cores' time the cgroups of this process leave it, or None where that is unlimited.

    Args:
        root: where `/proc` and `/sys` are.
    """
    limits = [limit for folder in cgroup_folders("cpu", root) if (limit := _limit_of(folder)) is not None]
    return min(limits, default=None)


def local_processes() -> int:
    """Returns the number of processes that the launcher says it has started on this machine, 1 if it does not say."""
    number = os.environ.get("LOCAL_WORLD_SIZE", "")  # torchrun and accelerate set it
    return max(1, int(number)) if number.isdecimal() else 1


def default_workers(num_batches: int) -> int:
    """Returns how many processes load files where the recipe does not say: they take the cores that the training process leaves.

    Args:
        num_batches: batches of an epoch; starting a process is not worth its while for few of them.
    """
    cores = max(1, available_cores() // local_processes())
    return min(cores - 1, _MAX_WORKERS, num_batches // _BATCHES_FOR_A_WORKER)


def _siblings(cpu: int, root: Path) -> str:
    """Returns a text that is the same for the hardware threads of one core."""
    try:
        return (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:  # not Linux
        return str(cpu)


def _limit_of(cgroup: Path) -> float | None:
    """Returns how many cores' time the processes of a cgroup get, or None where that is unlimited or cannot be read."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
