"""Freed memory is kept: an update's pages are not cleared anew by the system."""

import platform

import pytest
from support import run, run_launched

from mutual.engine.runtime.allocator import keep_freed_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


@pytest.fixture(autouse=True)
def chosen_by_nobody(monkeypatch):
    for name in ("GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_updates_of_the_same_size_ask_the_system_for_no_page():
    """In new processes: what a server of forks has freed has moved the C library's own limits, and its forks inherit them."""
    faults = {mode: int(run_launched("allocator_checks", mode).stdout) for mode in ("keep", "leave")}
    assert faults["keep"] < 5_000, "of 80,000 pages"
    assert faults["leave"] > 10_000


def test_what_was_kept_is_returned_where_a_training_ends():
    assert int(run("allocator_checks", "return").stdout) > 100 << 20


def test_an_allocator_that_the_user_has_chosen_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert keep_freed_memory() is False
