"""Whoever fails says so once, with its rank, and all processes are gone within seconds; what all have is said once and as by one."""

import os
import re
import time
from dataclasses import dataclass

import pytest
import yaml
from support import ROOT, run, run_launched, tiny_document

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Ended:
    """What two processes printed on stderr, our lines of it, their exit codes, and how many seconds after the fault both were gone."""

    stderr: str
    lines: list[str]
    codes: set[int]
    seconds: float


def ended(tmp_path, *arguments, module="mutual.train", model="support:tiny", workers=0, fault="", torchrun=False):
    """Trains on two processes, started by torchrun itself or by what stands for it, until one or both fail."""
    document = tiny_document(peers={name: {"model": model} for name in "ab"}, train={"epochs": 200, "progress": False})
    document["data"]["workers"] = workers
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    context = tmp_path / "moment"
    for attempt in ("first", "second"):  # once in some dozens of runs, torch crashes in a process whose peer has gone (SIGSEGV)
        words = (module, tmp_path / "recipe.yaml", f"output={tmp_path / attempt}", *arguments)
        done = (run_launched if torchrun else run)(*words, processes=2, expect=1, MOMENT=str(context), FAULT=fault)
        codes = {int(code) for code in re.findall(r"exitcode  : (\S+)", done.stderr)} if torchrun else set(done.exit_codes)
        assert codes, done.stderr
        if -11 not in codes:
            break
    seconds = time.time() - float(context.read_text()) if context.exists() else 0
    return Ended(done.stderr, [line for line in done.stderr.splitlines() if line.startswith("mutual: ")], codes, seconds)


HOST = re.escape(os.uname().nodename)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("recipe", rf"mutual: rank 1 on {HOST}: /nowhere/recipe.yaml: no such file; there is no folder '/nowhere'"),
        ("data", rf"mutual: rank 1 on {HOST}: \S*recipe.yaml: data: no folder /nowhere/train; .*"),
    ],
)
def test_what_one_machine_lacks_is_reported_once_with_its_rank(tmp_path, fault, line):
    end = ended(tmp_path, module="rank_faults", fault=fault)
    assert len(end.lines) == 1, end.stderr
    assert re.match(line, end.lines[0]), end.lines
    assert 2 in end.codes
    assert end.codes <= {2, -15}
    assert str(ROOT / "mutual") not in end.stderr, "no traceback but the launcher's own"
    assert end.seconds < 40, "importing torch included"


def test_a_factory_that_fails_on_one_rank_ends_all(tmp_path):
    end = ended(tmp_path, model="rank_faults:unbuildable")
    assert end.stderr.count("ZeroDivisionError: no driver") == 1, end.stderr
    assert len(end.lines) == 1
    assert end.lines[0].startswith(f"mutual: rank 1 on {os.uname().nodename}: ")
    assert end.seconds < 20


@pytest.mark.parametrize(
    ("fault", "reported", "code", "workers"), [("input", "/data/3.jpg cannot be read", 2, 1), ("bug", "KeyError: 'no such key'", 1, 0)]
)
def test_an_error_in_the_middle_of_an_epoch_ends_all(tmp_path, fault, reported, code, workers):
    end = ended(tmp_path, model="rank_faults:faulty", fault=fault, workers=workers)
    assert end.stderr.count(reported) == 1, end.stderr
    assert len(end.lines) == 1, end.stderr
    assert end.lines[0].startswith(f"mutual: rank 1 on {os.uname().nodename}: ")
    assert code in end.codes
    assert end.codes <= {code, -15}, "the launcher may end the other one before it has ended itself"
    assert end.seconds < 20


def test_a_rank_that_was_killed_leaves_a_line_and_no_traceback(tmp_path):
    end = ended(tmp_path, model="rank_faults:faulty", fault="killed", torchrun=True)
    assert len(end.lines) == 1, end.stderr
    assert "rank 0 on" in end.lines[0]
    assert "another process of the run has ended" in end.lines[0]
    assert "gloo" not in end.stderr
    assert end.seconds < 40


def test_what_all_have_is_reported_once_and_without_ranks(tmp_path):
    end = ended(tmp_path, "peers.a.model=support:nothing")
    assert len(end.lines) == 1, end.stderr
    assert end.lines[0].startswith("mutual: override peers.a.model=support:nothing: peers.a.model: ")
    assert end.codes == {2}


def test_a_diverged_run_is_reported_once(tmp_path):
    end = ended(tmp_path, "peers.a.model=support:poisoned")
    assert len(end.lines) == 1, end.stderr
    assert "not finite" in end.lines[0]
    assert "rank" not in end.lines[0]
    assert end.codes == {1}


def test_an_end_that_all_have_waits_for_the_slowest_to_close_its_files(tmp_path):
    end = ended(tmp_path, "peers.a.model=support:poisoned", module="rank_faults", fault="slow close")
    assert (tmp_path / "moment").exists(), "rank 0 came to the end of it"
    assert len(end.lines) == 1, end.stderr
    assert "not finite" in end.lines[0]
    assert "rank" not in end.lines[0]
    assert end.codes == {1}


def test_a_main_process_whose_output_is_not_read_ends_all(tmp_path):
    end = ended(tmp_path, module="rank_faults", fault="no reader")
    assert end.lines == [f"mutual: rank 0 on {os.uname().nodename}: the reader of the output has ended"], end.stderr
    assert str(ROOT / "mutual") not in end.stderr, "no traceback but the launcher's own"
