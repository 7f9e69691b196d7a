"""Freed memory is kept: an update's pages are not cleared anew by the system."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from mutual.engine.runtime.allocator import keep_freed_memory
keeps = keep_freed_memory() if sys.argv[1] == "keep" else None
def update():
    tensors = [torch.ones(1 << 20) for _ in range(16)]  # 64 MB
update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    update()
print(keeps, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode, **variables):
    environment = {key: value for key, value in os.environ.items() if key not in ("GLIBC_TUNABLES", "LD_PRELOAD")} | variables
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True, env=environment)
    keeps, count = done.stdout.split()
    return keeps, int(count)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_updates_of_the_same_size_ask_the_system_for_no_page():
    keeps, count = faults("keep")
    assert keeps == "True"
    assert count < 5_000, "of 80,000 pages"
    assert faults("leave")[1] > 10_000


RETURNED = """
import psutil, torch
from mutual.engine.runtime.allocator import keep_freed_memory, return_freed_memory
keep_freed_memory()
tensors = [torch.ones(1 << 20) for _ in range(32)]  # 128 MB
behind = torch.ones(1 << 20)
del tensors
kept = psutil.Process().memory_info().rss
return_freed_memory()
print(kept - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_was_kept_is_returned_where_a_training_ends():
    done = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_an_allocator_that_the_user_has_chosen_is_left_alone():
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
