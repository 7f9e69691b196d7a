"""cgroup_folders: where Linux keeps the limits of the control groups that this process is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def cgroup_folders(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Yields the folders of the cgroups that this process is in, and of those that they are in; each of them limits it.

    Args:
        controller: whose limits are looked for, such as cpu or memory.
        root: where `/proc` and `/sys` are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):  # version 2 has one tree for all, version 1 one for each controller
            folder = root / "sys/fs/cgroup" / controllers
            names = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(len(names) + 1):
                yield folder.joinpath(*names[:depth])
