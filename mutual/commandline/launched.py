"""launched_rank: the rank and the number of processes of a launch, from the environment; imports no torch."""

from __future__ import annotations

import os


def launched_rank() -> tuple[int, int]:
    """Returns this process's rank and the number of processes that the launcher has started; (0, 1) where it has set neither."""
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return (int(rank) if rank.isdecimal() else 0), (int(size) if size.isdecimal() else 1)
