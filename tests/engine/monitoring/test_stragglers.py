"""A rank that falls behind is named: by its times where it is slow, by what the others see where it does not move."""

import re
import socket
import warnings

import pytest
import torch
import yaml
from support import WORLD, build, run, start, tiny_document
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mutual.engine.monitoring import StragglerMonitor, stragglers
from mutual.engine.monitoring.stragglers import lagging_rank
from mutual.engine.monitoring.watchdog import COMPUTING, LOADING, HangDetector, Heartbeat
from mutual.group import Communicator


def beats(number, *places):
    return [None if place is None else Heartbeat(number, "node", place) for place in places]


def test_a_rank_is_behind_where_it_stands_in_an_earlier_update_or_stage():
    detector = HangDetector(stall=60, silence=15)
    for second in range(0, 60, 5):
        assert detector.lagging_ranks(beats(second, (7, COMPUTING), (7, LOADING), (7, COMPUTING)), second) == []
    assert detector.lagging_ranks(beats(60, (7, COMPUTING), (7, LOADING), (7, COMPUTING)), 60) == [1]
    assert detector.lagging_ranks(beats(65, (7, COMPUTING), (7, LOADING), (7, COMPUTING)), 65) == [], "once in a stall"
    assert detector.lagging_ranks(beats(70, (8, LOADING), (8, LOADING), (8, LOADING)), 70) == []
    assert detector.lagging_ranks(beats(131, (8, LOADING), (8, COMPUTING), (8, LOADING)), 131) == []
    assert detector.lagging_ranks(beats(192, (8, LOADING), (8, COMPUTING), (8, LOADING)), 192) == [0, 2]


def test_where_all_are_equally_far_a_silent_rank_is_behind_and_else_none():
    """A long evaluation is no stall of anybody."""
    detector = HangDetector(stall=60, silence=15)
    for second in range(0, 100, 5):
        assert detector.lagging_ranks(beats(second, (7, LOADING), (7, LOADING)), second) == []
    for second in range(100, 200, 5):
        found = detector.lagging_ranks([Heartbeat(second, "node", (8, COMPUTING)), Heartbeat(100, "node", (8, COMPUTING))], second)
        assert found == ([1] if second == 160 else [])
    assert detector.is_silent(1, 200)
    assert not detector.is_silent(0, 200)


def test_no_rank_is_reported_before_all_have_sent_a_heartbeat():
    detector = HangDetector(stall=60, silence=15)
    assert [detector.lagging_ranks(beats(second, (0, COMPUTING), None), second) for second in (0, 61, 122)] == [[], [], []]


@pytest.mark.parametrize(
    ("busy", "update", "behind"),
    [
        ([1.0, 1.1, 0.9, 1.0], 3.0, None),
        ([1.0, 1.0, 2.0, 1.0], 3.0, 2),
        ([1.0, 1.4], 2.0, None),
        ([2.0, 1.0], 3.0, 0),
        ([0.01, 0.02], 3.0, None),
        ([2.0, 2.0, 1.0], 3.0, None),
    ],
)
def test_a_rank_falls_behind_where_the_others_wait_a_noticeable_part_of_an_update(busy, update, behind):
    """Half as long again as the rank in the middle, and a tenth of the update; two equally slow ranks of three are the middle."""
    assert lagging_rank(busy, update) == behind


class _ThreeRanks(Communicator):
    """Stands for three ranks, of which the last loads for as long as the update of this one takes."""

    def all_gather(self, tensor):
        return torch.stack([torch.zeros(2), torch.zeros(2), tensor])

    def store(self, name):
        return None


def test_a_rank_is_named_once_after_two_slow_intervals_in_a_row(monkeypatch, recwarn):
    """An interval has as many updates as take a second; those that are flushed sooner are judged together."""
    warnings.simplefilter("always")  # by default Python shows the same text once, whoever says it
    _, data, group, _ = build(tiny_document())
    data.close()
    now = [0.0]
    monkeypatch.setattr(stragglers.time, "perf_counter", lambda: now[0])
    monitor = StragglerMonitor(group, _ThreeRanks(0, 3, torch.device("cpu")))

    def train(updates, *, loads):
        def windows():
            for update in range(updates):
                now[0] += loads
                yield update

        for _ in monitor.timed(windows(), 0):
            now[0] += 0.02 - loads
        return monitor.flush()

    def named():
        return [str(each.message) for each in recwarn if "falls behind" in str(each.message)]

    for loads in (0.01, 0.0, 0.01, 0.0):
        train(60, loads=loads)
    assert named() == [], "slow, and not in the next interval"
    for _ in range(40):
        paces = train(2, loads=0.01)
    assert paces == pytest.approx({"pace/slowest_rank_ms": 10.0, "pace/middle_rank_ms": 0.0})
    assert named() == [], "1.6 seconds: one interval and a part"
    for _ in range(15):
        train(2, loads=0.01)
    told = "rank 2 falls behind: the others wait 10 ms of 20 ms an update for it (its data take 10 ms, its forwards 0 ms)"
    assert named() == [told]
    for _ in range(3):
        train(60, loads=0.01)
    assert named() == [told], "once"
    monitor.close()


def test_what_an_update_waits_for_in_its_middle_counts_as_loading_and_is_a_later_stage(monkeypatch):
    _, data, group, _ = build(tiny_document())
    data.close()
    monitor = StragglerMonitor(group, WORLD)
    stages, seconds = [], iter(range(100))
    monkeypatch.setattr(stragglers.time, "perf_counter", lambda: float(next(seconds)))
    for _ in monitor.timed(range(2), 5):
        for _ in range(2):
            stages.append((monitor._watchdog.stage, monitor._watchdog.activity))
            with monitor.waiting():
                stages.append((monitor._watchdog.stage, monitor._watchdog.activity))
    assert [stage for stage, _ in stages] == sorted({stage for stage, _ in stages}), "later ones are greater"
    assert [activity for _, activity in stages] == ["computes", "waits for its data"] * 4
    assert monitor._loading_seconds == 2 + 4, "one between the calls of each wait, two for windows and four in updates"
    monitor.close()


def written(tmp_path, model, **sections):
    document = tiny_document(peers={name: {"model": model} for name in "ab"}, **sections)
    document["train"] = {"epochs": 3, "progress": False, "log_every": 2}
    document["data"] |= {"batch_size": 4}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "recipe.yaml"


def judge_often():
    """Makes rank 0, which warns, judge shorter intervals than a second, and so more of them."""
    stragglers.LAG_SECONDS = 0.4


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["replicated", "parallel"])
def test_a_slow_rank_is_named_once_with_what_it_costs(tmp_path, placement):
    recipe = written(tmp_path, "process_models:slow", placement=placement)
    forwards = 1 if placement == "parallel" else 2
    done = run("mutual.train", recipe, f"output={tmp_path}", f"train.epochs={10 // forwards}", processes=2, prepare=judge_often)
    lines = [line for line in done.stderr.splitlines() if "falls behind" in line]
    who = "rank 1 (b)" if placement == "parallel" else "rank 1"
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"mutual: warning: {who} falls behind: the others wait ")
    charts = EventAccumulator(str(tmp_path / "tiny")).Reload()
    slowest, middle = ([event.value for event in charts.Scalars(f"pace/{name}_rank_ms")] for name in ("slowest", "middle"))
    assert min(slowest) >= 50 * forwards
    assert torch.tensor(middle[1:]).median() < 50


HANGING = ("peers.b.model=hanging_train:hanging", "train.epochs=2")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """All trainings that mostly wait, begun side by side, by what happens in them; and the folder of each."""
    cases = {
        "stopped": ("impatient_train", {"model": "process_models:stopped"}, [], {}),
        "replicated": ("hanging_train", {"model": "support:tiny"}, HANGING, {}),
        "parallel": ("hanging_train", {"model": "support:tiny", "placement": "parallel"}, HANGING, {}),
        "for good": ("hanging_train", {"model": "support:tiny"}, [HANGING[0], "train.timeout_seconds=5"], {"SECONDS": "100"}),
    }
    begun = {}
    for name, (module, recipe, overrides, variables) in cases.items():
        folder = tmp_path_factory.mktemp("hanging")
        arguments = (module, written(folder, **recipe), f"output={folder}", *overrides)
        begun[name] = folder, start(*arguments, processes=2, **variables)
    return begun


def finished(jobs, name, *, expect=0):
    """The folder of a job and the lines of its stderr, when it has ended."""
    folder, job = jobs[name]
    assert job.wait(timeout=120) == expect, job.stderr
    return folder, job.stderr.splitlines()


@pytest.mark.slow
def test_a_rank_that_does_not_move_is_named_while_the_others_wait(jobs):
    folder, printed = finished(jobs, "stopped")
    lines = [line for line in printed if "nothing has gone on" in line]
    assert len(lines) == 1, printed
    assert "nothing has gone on for 3 s: rank 1 on " in lines[0]
    assert "gives no sign of life, and the others wait for it" in lines[0]
    assert (folder / "tiny" / "best" / "best.json").exists(), "it went on, and so did the run"


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["replicated", "parallel"])
def test_a_rank_that_hangs_is_named_with_what_it_hangs_in(jobs, placement):
    """In the loader, a forward, an evaluation and a checkpoint (tests/hanging_train.py), one after another; each is told once."""
    _, printed = finished(jobs, placement)
    pattern = r"mutual: warning: nothing has gone on for 3 s: (.*), and the others wait for it"
    reported = [match[1] for line in printed if (match := re.fullmatch(pattern, line))]
    host = socket.gethostname()
    assert reported == [
        f"rank 1 on {host} waits for its data in update 4",
        f"rank 1 on {host} evaluates peer 'b' after update 5",
        f"rank 1 on {host} computes peer 'b' in update 8",
        f"rank 0 on {host} writes a checkpoint after update 10",
    ], printed


@pytest.mark.slow
def test_a_rank_that_hangs_for_good_ends_the_run_after_the_recipes_timeout(jobs):
    """It is named, and then the others give up waiting."""
    _, printed = finished(jobs, "for good", expect=1)
    lines = [line for line in printed if line.startswith("mutual: ")]
    assert "nothing has gone on" in lines[0], printed
    assert len(lines) == 2, printed
    assert "another process of the run has ended, or has not answered for train.timeout_seconds" in lines[1], printed
