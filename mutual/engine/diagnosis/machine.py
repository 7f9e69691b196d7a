"""The machine: system, processor, cores, memory and limits of this process, as /proc, /sys and psutil have them."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from mutual.data import available_cores, cgroup_folders, cpu_quota, local_processes
from mutual.engine.runtime import processor_name

_UNLIMITED_BYTES = 2**60
"""From here on a number of version 1 of cgroups, in which there is no word for it, means no limit."""


@dataclass(frozen=True)
class Machine:
    """The machine, and what of it this process may use; bytes, and None for what is not known.

    Attributes:
        system: name and release of the operating system, and the architecture.
        libc: name and version of the C library.
        python: version of Python.
        processor: name of the CPU's model.
        logical_cores: of the machine.
        affine_cores: logical cores that this process may run on.
        cpu_quota: cores' time that its cgroups leave it.
        usable_cores: physical cores that remain of all these, which threads and loader processes are counted by.
        processes: processes of this launch that share them.
        load: processes that computed or waited for a core, a mean over the last minute.
        memory_bytes: of the machine.
        available_bytes: of these, what is free or can be freed.
        memory_limit_bytes: what the cgroups of this process leave it.
        shared_bytes: size of /dev/shm, through which loader processes give their batches.
        shared_free_bytes: of these, what is free.
        open_files: how many files this process may have open.
        most_open_files: how many it may allow itself; None: any number.
    """

    system: str
    libc: str
    python: str
    processor: str
    logical_cores: int
    affine_cores: int
    cpu_quota: float | None
    usable_cores: int
    processes: int
    load: float
    memory_bytes: int
    available_bytes: int
    memory_limit_bytes: int | None
    shared_bytes: int | None
    shared_free_bytes: int | None
    open_files: int
    most_open_files: int | None


def read_machine(root: Path = Path("/")) -> Machine:
    """Returns what is known of this machine; `root` is where `/proc`, `/sys` and `/dev` are."""
    memory = psutil.virtual_memory()
    shared = shutil.disk_usage(root / "dev/shm") if (root / "dev/shm").is_dir() else None
    open_files, most_open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    logical_cores = os.cpu_count() or 1
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        libc=" ".join(platform.libc_ver()).strip() or "unknown",
        python=f"{platform.python_version()} {platform.python_implementation()}",
        processor=processor_name(root),
        logical_cores=logical_cores,
        affine_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical_cores,
        cpu_quota=cpu_quota(root),
        usable_cores=available_cores(root),
        processes=local_processes(),
        load=os.getloadavg()[0],
        memory_bytes=memory.total,
        available_bytes=memory.available,
        memory_limit_bytes=memory_limit(root),
        shared_bytes=None if shared is None else shared.total,
        shared_free_bytes=None if shared is None else shared.free,
        open_files=open_files,
        most_open_files=None if most_open_files == resource.RLIM_INFINITY else most_open_files,
    )


def memory_limit(root: Path = Path("/")) -> int | None:
    """Returns the bytes that the cgroups of this process leave it, or None where that is unlimited."""
    return min(_memory_limits(root), default=None)


def driver_version(root: Path = Path("/")) -> str | None:
    """Returns the version of the NVIDIA driver, or None where there is none.

    Example:
        >>> driver_version(Path("/nowhere")) is None
        True
    """
    found = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", _text(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def _memory_limits(root: Path) -> Iterator[int]:
    for folder in cgroup_folders("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):  # of version 2, and of version 1
            text = _text(folder / name).strip()
            if text.isdecimal() and int(text) < _UNLIMITED_BYTES:
                yield int(text)


def _text(path: Path) -> str:
    """Returns the text of a file of the system, an empty one where there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
