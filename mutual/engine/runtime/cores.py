"""available_cores: the CPU cores that this process may use; chosen_threads: the number of threads that its user chose, if any."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil
import torch

_THREADS = "OMP_NUM_THREADS"
_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""Variables that `accelerate launch` and `torchrun` set for every process."""
_THREADS_FLAG = "--num_cpu_threads_per_process"


def available_cores(root: Path = Path("/")) -> int:
    """Returns the number of physical cores that this process may use: those of its affinity, at most what its control groups grant.

    Args:
        root: where `/proc` and `/sys` are.
    """
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:  # not on every system
        cpus = set(range(psutil.cpu_count(logical=False) or 1))
    cores = len({_siblings(cpu, root) for cpu in cpus})
    return max(1, min(cores, math.floor(min(_quotas(root), default=cores))))


def local_processes() -> int:
    """Returns the number of processes that the launcher says it has started on this machine, 1 if it does not say."""
    number = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(number) if number.isdecimal() and int(number) > 0 else 1


def chosen_threads() -> int | None:
    """Returns the number of threads that the user chose for this process, or None where only a launcher did.

    Whoever calls `torch.set_num_threads`, sets OMP_NUM_THREADS or gives `--num_cpu_threads_per_process` chooses. `accelerate launch` always
    sets OMP_NUM_THREADS, and `torchrun` does for several processes, to 1 where nobody chose: whether somebody did, the environment and
    the command line of the launcher itself tell. Where they cannot be read, 1 is nobody's choice.
    """
    threads = torch.get_num_threads()
    if _THREADS not in os.environ:
        return None if threads >= available_cores() else threads
    is_set_since = os.environ[_THREADS] != str(threads)
    return threads if is_set_since or _is_chosen(threads) else None


def _is_chosen(threads: int) -> bool:
    """Returns whether the user, and not only a launcher, set OMP_NUM_THREADS."""
    if not any(variable in os.environ for variable in _LAUNCHED):
        return True
    try:
        for ancestor in psutil.Process().parents():
            variables = ancestor.environ()
            if not any(variable in variables for variable in _LAUNCHED):  # the launcher, which sets them for what it starts
                words = [word.replace("-", "_") for word in ancestor.cmdline()]
                return _THREADS in variables or any(word.startswith(_THREADS_FLAG.replace("-", "_")) for word in words)
    except psutil.Error:
        pass
    return threads != 1


def _siblings(cpu: int, root: Path) -> str:
    """Returns a text that is the same for the hardware threads of one core."""
    try:
        return (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _quotas(root: Path) -> Iterator[float]:
    """Yields the CPUs' worth of time that each control group of this process grants, where it limits them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        for folder in (PurePosixPath(path), *PurePosixPath(path).parents):  # in a container the path may be the host's
            try:
                quota, period = " ".join((base / str(folder).lstrip("/") / name).read_text() for name in names).split()
            except (OSError, ValueError):
                continue
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
