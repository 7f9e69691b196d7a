"""Memory that an update frees is there for the next one."""

import platform
import subprocess
import sys

import pytest
from support import ROOT, environment

from mutual.engine.runtime import memory

SCRIPT = """
import resource, runpy, sys
module = runpy.run_path(sys.argv[1])
if sys.argv[2] == "keep":
    module["keep_freed_memory"]()
def update():
    return [bytearray(2**22) for _ in range(8)]
for _ in range(5):
    update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    update()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode, **variables):
    words = [sys.executable, "-c", SCRIPT, memory.__file__, mode]
    return int(subprocess.run(words, env=environment(**variables), cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another system's library")
def test_freed_memory_is_used_again():
    default, kept = page_faults("leave"), page_faults("keep")
    assert kept < default / 10
    assert page_faults("keep", MALLOC_ARENA_MAX="8") > default / 2, "who says how memory is kept has the last word"


def test_a_system_without_the_switch_goes_on(monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_freed_memory()
