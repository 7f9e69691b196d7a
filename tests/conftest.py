"""What all tests share before the first is imported: options, threads, how they are spread over processes, and who is too slow."""

import gc
import os
from collections import Counter

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the nets are tiny, and several processes train at once
QUICK = 5.0
"""Seconds that a test which is not marked `slow` takes at most on a core of its own."""
LONGEST = 25
"""Files of tests whose time is said."""


def pytest_addoption(parser):
    parser.addoption("--faults-long", action="store_true", help="the long form of the attacks")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """With `-n`, a process that has nothing left to do takes tests from the others: they stay together by file as far as possible."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_collection_modifyitems(items):
    """The longest tests begin first, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: (item.get_closest_marker("faults") is None, item.get_closest_marker("slow") is None))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """No garbage is searched for meanwhile: that took a fifth of the time, as libraries are imported by the thousand objects and stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish():
    """What libraries hold is searched for garbage no more: that took most of the time of each `gc.collect()`, as between measurements."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # libraries complain at the end of what nobody collects


def pytest_terminal_summary(terminalreporter):
    """Names quick tests that were slow; a busy machine is a reason, so this fails nothing. And the files that took longest."""
    seconds, file_seconds = Counter(), Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                file_seconds[report.nodeid.partition("::")[0]] += report.duration
                if "slow" not in report.keywords:
                    seconds[report.nodeid] += report.duration
    if len(file_seconds) > LONGEST:
        listed = ", ".join(f"{file} {duration:.0f}" for file, duration in file_seconds.most_common(LONGEST))
        terminalreporter.write_line(f"seconds of {sum(file_seconds.values()):.0f}, by file: {listed}")
    for name, duration in seconds.most_common():
        if duration > QUICK:
            terminalreporter.write_line(f"not marked slow, and took {duration:.1f} s (more than {QUICK:.0f}): {name}")
