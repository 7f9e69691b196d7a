"""keep_freed_memory: the C library keeps the memory that tensors free, in place of giving it back to the system after every update.

glibc maps large allocations one by one and returns freed ones at once. A training on a CPU allocates the same activations in every update:
the system clears each page anew, which takes 10 to 25 % of an update of small models.
"""

from __future__ import annotations

import ctypes
import os

# of <malloc.h>
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_LARGEST_INT = 2**31 - 1
_LARGEST_POOLED = 2**30
"""Bytes; larger allocations are mapped one by one as before."""
_LARGEST_OF_OLD_GLIBC = 2**25
_CHOSEN_BY_USER = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory for its next allocations, up to the largest that it has had at a time; changes no result.

    Returns:
        Whether it does: False where the C library is not glibc, or where the environment chooses an allocator or its settings.
    """
    if any(os.environ.get(name) for name in _CHOSEN_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other libraries than glibc have none
    if mallopt is None or not (mallopt(_MMAP_THRESHOLD, _LARGEST_POOLED) or mallopt(_MMAP_THRESHOLD, _LARGEST_OF_OLD_GLIBC)):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST_INT))


def return_freed_memory() -> None:
    """Returns to the system what was freed and kept until now, as where a training ends in a process that goes on."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
