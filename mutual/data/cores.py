"""Cores: how many of the machine's this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_MAX_WORKERS = 8
_BATCHES_FOR_A_WORKER = 16
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cores() -> int:
    """Returns the number of cores for this process, at least 1: those it may run on, divided by the processes that were launched here.

    Its affinity and the limit of its cgroup count (a container's `--cpus=2`, which `os.cpu_count` does not know), and
    `LOCAL_WORLD_SIZE`, which torchrun and accelerate set.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = math.floor(min([float(affinity), *_cgroup_limits(_CGROUPS, _OWN_CGROUPS)]))
    num_processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, cores // max(1, int(num_processes) if num_processes.isdecimal() else 1))


def default_workers(num_batches: int) -> int:
    """Returns how many processes load files where the recipe does not say: they take the cores that the training process leaves.

    Args:
        num_batches: batches of an epoch; starting a process is not worth its while for few of them.
    """
    return min(available_cores() - 1, _MAX_WORKERS, num_batches // _BATCHES_FOR_A_WORKER)


def _cgroup_limits(root: Path, own_cgroups: Path) -> Iterator[float]:
    """Yields the limits, in cores, of the cgroups that this process is in and of those that they are in."""
    try:
        lines = own_cgroups.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):  # version 2 has one tree for all controllers, version 1 one for each
            folder = root if controllers == "" else root / controllers
            names = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(len(names) + 1):
                limit = _limit_of(folder.joinpath(*names[:depth]))
                if limit is not None:
                    yield limit


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
