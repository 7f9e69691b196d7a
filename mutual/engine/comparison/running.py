"""run_jobs: trainings in processes of their own, so many at a time, ended cleanly whatever happens."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mutual.engine.comparison import guard
from mutual.engine.runtime import StoppedError, StopSignals
from mutual.engine.storage import METRICS, RunFolder, check_not_in_training
from mutual.recipe import InputError, RunError, printable

POLL = 0.5
"""Seconds between two looks at how far the trainings are."""
_MAX_LINE = 500  # characters of a line of a training's log


@dataclass(frozen=True)
class TrainingJob:
    """A run that is to be trained, or gone on with.

    Attributes:
        folder: its run folder.
        command: the command line that trains it.
        log: the file that takes what it prints.
        epochs: how many it has in all.
        replaces: whether its folder holds a run of another recipe, which is removed.
    """

    folder: RunFolder
    command: tuple[str, ...]
    log: Path
    epochs: int
    replaces: bool = False

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.folder.path.name


class Progress:
    """A bar over the epochs of all runs, or where nobody would see it, a line for each run that is finished.

    Args:
        jobs: the runs that are to be trained.
        num_done: how many more are finished.
        done_epochs: how many epochs these have.
    """

    def __init__(self, jobs: Sequence[TrainingJob], *, num_done: int = 0, done_epochs: int = 0) -> None:
        self._num_runs, self._num_done, self._done_epochs = len(jobs) + num_done, num_done, done_epochs
        self._epochs = {job.name: 0 if job.replaces else _finished_epochs(job) for job in jobs}
        self._is_terminal = sys.stderr.isatty()
        self._bar: tqdm[Any] = tqdm(
            desc=self._runs,
            total=done_epochs + sum(job.epochs for job in jobs),
            initial=self._total,
            unit=" epochs",
            smoothing=0,
            dynamic_ncols=True,
            leave=False,
            disable=not self._is_terminal,
        )

    def refresh(self, job: TrainingJob) -> None:
        """Looks at how far the run is."""
        epochs = _finished_epochs(job)
        if epochs != self._epochs[job.name]:
            self._epochs[job.name] = epochs
            self._show()

    def finish(self, job: TrainingJob, seconds: float) -> None:
        """Counts a run as finished, however many epochs it has trained."""
        self._epochs[job.name] = job.epochs
        self._num_done += 1
        self._show()
        if not self._is_terminal:
            print_line(f"{job.name}: done in {seconds:.0f} s ({self._num_done} of {self._num_runs} runs)")

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()

    @property
    def finished_runs(self) -> str:
        """How many runs are finished, in words."""
        return f"{self._num_done} of {self._num_runs} runs are finished"

    @property
    def _runs(self) -> str:
        return f"{self._num_done}/{self._num_runs} runs"

    @property
    def _total(self) -> int:
        return self._done_epochs + sum(self._epochs.values())

    def _show(self) -> None:
        if self._is_terminal:
            self._bar.n = self._total
            self._bar.set_description(self._runs)


def print_line(line: str) -> None:
    """Prints a line on stderr, above a bar: stdout is for what was found."""
    tqdm.write(printable(line), file=sys.stderr)
    sys.stderr.flush()


def run_jobs(jobs: Sequence[TrainingJob], slots: Sequence[Mapping[str, str]], progress: Progress) -> None:
    """Runs the jobs in their order, as many at a time as there are `slots`, each with the environment variables of its slot.

    Raises:
        InputError: a training has found the user's input wrong.
        RunError: a training has failed.
        StoppedError: SIGTERM, SIGUSR1 or SIGINT was received.

    Whatever is raised, the trainings under way have been asked to end, have written a checkpoint and have ended.
    """
    waiting, active = deque(jobs), dict[int, _Process]()
    with StopSignals() as signals:
        try:
            while waiting or active:
                if signals.received is not None:
                    raise StoppedError(f"stopped by {signals.received.name}: {progress.finished_runs}; the same command goes on")
                for slot in set(range(len(slots))) - set(active):
                    if waiting:
                        active[slot] = _Process(waiting.popleft(), slots[slot])
                ended = _wait(list(active.values()))
                for slot, process in list(active.items()):
                    if process in ended:
                        del active[slot]
                        process.check()
                        progress.finish(process.job, process.seconds)
                    else:
                        progress.refresh(process.job)
        finally:
            _end(list(active.values()))
            progress.close()


def wait_until_free(folders: Sequence[RunFolder], *, seconds: float = 60.0) -> None:
    """Waits until no training runs in the folders: those of a comparison that was killed take a while to write their checkpoints.

    Raises:
        InputError: one still does then; the line names host and process.
    """
    deadline = time.monotonic() + seconds
    for folder in folders:
        is_told = False
        while True:
            try:
                check_not_in_training(folder.path)
                break
            except InputError as error:
                if time.monotonic() > deadline:
                    raise
                if not is_told:
                    print_line(f"{error} (waiting for it)")
                is_told = True
                time.sleep(POLL)


class _Process:
    """A training under way, behind the guard that ends it should this process end."""

    def __init__(self, job: TrainingJob, environment: Mapping[str, str]) -> None:
        self.job = job
        self._group: int | None = None
        self._start_time = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        if job.log.is_symlink() or (job.log.exists() and not job.log.is_file()):
            raise InputError(f"{job.log} is no file, and what the training prints would go there; move it away")
        with job.log.open("ab") as log:
            self._log_start = log.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, *job.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._start_time

    def fileno(self) -> int:
        """The pipe that can be read when it ends."""
        assert self._guard.stdout is not None
        return self._guard.stdout.fileno()

    def has_ended(self) -> bool:
        """Reads what there is to be read of the pipe; returns whether that was all."""
        content = os.read(self.fileno(), 4096)
        if content:
            self._group = int(content)
        return not content

    def ask_to_end(self) -> None:
        """Has the training write a checkpoint and end."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()

    def kill(self) -> None:
        """Ends it at once."""
        for group in (self._group, self._guard.pid):
            if group is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)

    def wait(self) -> int:
        """Waits for its end and returns its exit code."""
        code = self._guard.wait()
        if code < 0 and self._group is not None:  # somebody has killed the guard itself
            guard.end_group(self._group)
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def check(self) -> None:
        """Waits for the end of a training that is to be finished.

        Raises:
            InputError: it has found the user's input wrong.
            RunError: it is not finished.
        """
        code = self.wait()
        if code == 0 and self.job.folder.read_summary() is not None:
            return
        message = f"{self.job.name} {_describe_code(code)}: {self._last_line()} (all that it printed is in {self.job.log})"
        raise (InputError if code == 2 else RunError)(message)

    def _last_line(self) -> str:
        """Returns the last line that says what went wrong, or the last line at all."""
        with self.job.log.open("rb") as log:
            log.seek(self._log_start)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        ours = [line for line in lines if line.startswith("mutual: ") and not line.startswith("mutual: warning: ")]
        return printable((ours or lines or ["it printed nothing"])[-1].removeprefix("mutual: "), max_length=_MAX_LINE)


def _describe_code(code: int) -> str:
    number = -code if code < 0 else 256 - code
    if number in set(signal.Signals):
        return f"was ended by {signal.Signals(number).name}"
    return f"failed with exit code {code}" if code else "ended without being finished"


def _wait(processes: Sequence[_Process]) -> list[_Process]:
    """Waits until a process ends, or for a while; returns those that have ended."""
    readable, _, _ = select.select(processes, [], [], POLL)
    return [process for process in readable if process.has_ended()]


def _end(processes: Sequence[_Process]) -> None:
    """Ends trainings with a checkpoint; a second Ctrl-C in this ends them at once."""
    try:
        for process in processes:
            process.ask_to_end()
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
        raise


def _finished_epochs(job: TrainingJob) -> int:
    """Returns how many epochs of the run metrics.jsonl has."""
    try:
        last = (job.folder.path / METRICS).read_bytes().splitlines()[-1]
        return min(int(json.loads(last)["epoch"]), job.epochs)
    except (OSError, LookupError, ValueError, TypeError):  # there is none yet
        return 0
