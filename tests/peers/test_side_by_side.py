"""The harness that measures other frameworks beside ours: whose times are compared, what is skipped, and that an update is an update."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from peers.jobs import JOBS, DrivenLoader, Job
from peers.measuring import WARMUP, Worker, measure, table

TINY = Job("tiny", "kd", ("light_nn",), 32, 2, teacher="light_nn")


class Scripted:
    """A framework whose updates take what they are told; it ends where that ends."""

    def __init__(self, name, seconds, calls, skipped=None):
        self.name, self.versions, self.skipped = name, {name: "1.0"}, skipped
        self._seconds, self._calls = iter(seconds), calls

    def update(self):
        self._calls.append(self.name)
        seconds = next(self._seconds, None)
        self.skipped = None if seconds is not None else "RuntimeError: out of memory"
        return {"seconds": seconds, "cpu_seconds": seconds}


def test_each_round_asks_every_framework_once_and_every_other_round_in_reverse_order():
    calls = []
    measure([Scripted("a", [1.0] * 5, calls), Scripted("b", [2.0] * 5, calls)], rounds=2)
    assert calls == ["a", "b", "b", "a"] * 2 + ["a", "b"]
    assert WARMUP == 3


def test_ratios_are_medians_over_the_rounds_of_one_rounds_times():
    first, second = measure([Scripted("a", [9, 9, 9, 1, 2, 4], []), Scripted("b", [9, 9, 9, 2, 2, 12], [])], rounds=3)
    assert second.ratio(first, "seconds") == 2
    assert first.ratio(first, "cpu_seconds") == 1
    assert second.milliseconds == 2000


def test_what_is_not_installed_or_ends_early_is_in_the_table_by_name_with_the_reason():
    calls = []
    frameworks = [
        Scripted("ours", [1.0] * 5, calls),
        Scripted("gone", [1.0] * 4, calls),
        Scripted("missing", [], calls, skipped="not installed: No module named 'paddle'"),
    ]
    results = measure(frameworks, rounds=2)
    assert "missing" not in calls
    assert table({"tiny": results}).splitlines() == [
        "| | tiny |",
        "|---|---|",
        "| ours | 1000 ms |",
        "| gone |  |",
        "| missing |  |",
        "",
        "ours 1.0, gone 1.0, missing 1.0",
        "gone is skipped: RuntimeError: out of memory",
        "missing is skipped: not installed: No module named 'paddle'",
    ]


def test_the_table_has_a_row_for_each_framework_and_a_column_for_each_job():
    columns = {
        name: measure([Scripted("ours", [2.0] * 5, []), Scripted("other", [times] * 5, [])], rounds=2)
        for name, times in (("a", 3), ("b", 5))
    }
    assert table(columns).splitlines()[2:4] == ["| ours | 2000 ms | 2000 ms |", "| other | 1.50 / 1.50 | 2.50 / 2.50 |"]


def test_jobs_travel_as_json():
    assert all(Job.from_json(job.to_json()) == job for job in JOBS.values())


class EndedError(Exception):
    """In place of the end of the process."""


@pytest.mark.parametrize(("framework", "job"), [("mutual_eager", TINY), ("mutual_channels_last", TINY), ("pytorch_tutorial", TINY)])
def test_an_update_is_answered_for_each_request(monkeypatch, framework, job):
    def end(code):
        raise EndedError

    monkeypatch.setattr("os._exit", end)
    module = pytest.importorskip(f"peers.frameworks.{framework}")
    assert "torch" in module.versions()
    answers = io.StringIO()
    with pytest.raises(EndedError):
        module.train(job, lambda batch: DrivenLoader(batch, io.StringIO("\n\n"), answers))
    times = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert [set(each) for each in times] == [{"seconds", "cpu_seconds"}] * 2


@pytest.mark.slow
def test_a_worker_answers_from_its_own_process_and_says_why_it_cannot():
    ours, other = (Worker(name, TINY, python=sys.executable, threads=1) for name in ("pytorch_tutorial", "paddleclas_dml"))
    try:
        assert ours.skipped is None
        assert ours.update()["seconds"] > 0
        assert other.skipped is not None
    finally:
        ours.close()
        other.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--python", "/nowhere/python"], "--python: /nowhere/python is no program"),
        (["kd"], f"no job 'kd'; choose from {', '.join(JOBS)}"),
        (["--rounds", "0"], "--rounds and --threads must be at least 1"),
    ],
)
def test_wrong_options_are_told_before_anything_is_measured(words, message):
    done = subprocess.run([sys.executable, Path(__file__).parent, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
