"""Run in a process of its own: what updates and the end of a training do with its memory. The argument says which."""

import resource
import sys

import psutil
import torch

from mutual.engine.runtime.allocator import keep_freed_memory, return_freed_memory


def update():
    tensors = [torch.ones(1 << 20) for _ in range(16)]  # noqa: F841, 64 MB


def count_faults(*, keeps):
    """Pages that the system gives to five updates."""
    if keeps:
        assert keep_freed_memory()
    update()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        update()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def returned_bytes():
    """What the system gets back where a training ends whose tensors were freed."""
    keep_freed_memory()
    tensors = [torch.ones(1 << 20) for _ in range(32)]  # 128 MB
    behind = torch.ones(1 << 20)
    del tensors
    kept = psutil.Process().memory_info().rss
    return_freed_memory()
    assert behind.sum() == 1 << 20
    return kept - psutil.Process().memory_info().rss


if __name__ == "__main__":
    print(returned_bytes() if sys.argv[1] == "return" else count_faults(keeps=sys.argv[1] == "keep"))  # noqa: T201
