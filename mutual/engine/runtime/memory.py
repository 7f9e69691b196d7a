"""keep_freed_memory: the next update takes the memory that the last one has freed, without asking the system for it again."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's mallopt."""
_LARGEST_BLOCK = 32 * 2**20
"""The most that glibc takes as the size from which each block is asked for, and given back, alone."""
_KEPT = 2**31 - 1


def keep_freed_memory() -> None:
    """Lets glibc keep up to 2 GiB that were freed, for the rest of the process.

    It does nothing with other libraries, and where the environment says how memory is kept (MALLOC_*). By default glibc gives an update's
    activations back to the system, and the next update begins with thousands of page faults, which one thread handles while the others
    wait. The largest amount that the process holds at any time stays the same.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(AttributeError, OSError, TypeError):  # another system's library has no such function
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, _KEPT)
