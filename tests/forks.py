"""Runs of modules that cost no start: each is forked from a server that has imported everything and has no threads.

A start of Python with torch and all of ours takes seconds of a core, a fork milliseconds. The fork does what `python -m MODULE ...` does,
up to its last line: how an interpreter starts and how it ends are left to tests that start one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

from torch.distributed import TCPStore

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["warm_forks"])
_OF_SERVER = ("PYTHONPATH", "OMP_NUM_THREADS")
"""Variables with which the server starts: what it imports is read with them, once for all jobs."""
_NOTICE = 0.1
"""Seconds after which a failed rank is noticed, as by torchrun."""


class Job:
    """A module that runs in one process, or as several ranks under what stands for torchrun.

    As under torchrun, one rank that fails ends the others, and the job's exit code is 1 then; they meet in a store outside of them.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        variables: Mapping[str, str],
        processes: int = 1,
        prepare: Callable[[], None] | None = None,
        stdout: Path | None = None,
        grace: float = 10.0,
    ) -> None:
        """Starts it with `variables` as its environment.

        `prepare` is called first, on rank 0 alone where there are several; `stdout` is a named pipe to print to instead of a file. After
        `grace` seconds from SIGTERM the other ranks of one that has failed are killed: they take some, to say who has.
        """
        self._grace = grace
        self._folder = tempfile.TemporaryDirectory()
        self._output = [stdout or Path(self._folder.name) / "stdout", Path(self._folder.name) / "stderr"]
        for path in self._output:
            path.touch()
        self._store = None if processes == 1 else TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.ranks: list[BaseProcess] = []
        with mock.patch.dict(os.environ, {name: variables[name] for name in _OF_SERVER}):  # others are this job's alone
            forkserver.ensure_running()
        for rank in range(processes):
            own = {**variables, **self._launched(rank, processes)}
            work = (module, list(arguments), cwd, own, self._output, prepare if rank == 0 else None)
            self.ranks.append(_CONTEXT.Process(target=_run, args=work))
            self.ranks[-1].start()

    def poll(self) -> int | None:
        """Returns the exit code, or None while it runs."""
        codes = self.exit_codes
        if len(codes) == 1:
            return codes[0]
        if any(codes):
            self._end()
            return 1
        return None if None in codes else 0

    def wait(self, timeout: float) -> int:
        """Returns the exit code, as soon as there is one.

        Raises:
            TimeoutError: there is none in so many seconds; all is killed then.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"still running after {timeout:.0f} s:\n{self.stdout}\n{self.stderr}")
            time.sleep(0.005)
        return code

    def kill(self, number: int = signal.SIGKILL, *, rank: int | None = None, alone: bool = False) -> None:
        """Sends the signal to all ranks or one, and, unless `alone`, to the processes that they have started."""
        for process in self.ranks if rank is None else [self.ranks[rank]]:
            _signal(process, number, alone=alone)

    @property
    def exit_codes(self) -> list[int | None]:
        """The exit code of each rank; minus the signal's number where one has ended it."""
        return [rank.exitcode for rank in self.ranks]

    @property
    def stdout(self) -> str:
        """What it has printed."""
        return self._output[0].read_text(errors="surrogateescape")  # a file's name need not be UTF-8

    @property
    def stderr(self) -> str:
        """What it has complained."""
        return self._output[1].read_text(errors="surrogateescape")

    def _launched(self, rank: int, processes: int) -> dict[str, str]:
        if self._store is None:
            return {}
        names = ("RANK", "LOCAL_RANK", "ROLE_RANK"), ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE")
        reported = {name: str(value) for group, value in zip(names, (rank, processes), strict=True) for name in group}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._store.port), "GROUP_RANK": "0"}
        return {**reported, **meeting, "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}

    def _end(self) -> None:
        self._join(_NOTICE)
        self.kill(signal.SIGTERM, alone=True)
        self._join(self._grace)
        for rank in self.ranks:
            _signal(rank, signal.SIGKILL, alone=False)
            rank.join()

    def _join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for rank in self.ranks:
            rank.join(max(deadline - time.monotonic(), 0))


def _signal(rank: BaseProcess, number: int, *, alone: bool) -> None:
    assert rank.pid is not None, "it was started"
    if rank.exitcode is not None:
        return
    with suppress(ProcessLookupError):  # it has ended just now
        try:
            (os.kill if alone else os.killpg)(rank.pid, number)
        except ProcessLookupError:  # it has no group of its own yet
            os.kill(rank.pid, number)


def _run(
    module: str, arguments: list[str], cwd: Path, variables: dict[str, str], output: list[Path], prepare: Callable[[], None] | None
) -> None:
    multiprocessing.set_start_method(None, force=True)  # type: ignore[arg-type]  # loaders start their workers as in a process of its own
    os.setsid()  # a group of its own, so that a signal can reach what it starts
    for number, path in enumerate(output, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    _open_streams(variables.get("PYTHONIOENCODING", "utf-8"))
    sys.path.insert(0, str(cwd))
    sys.argv = [module, *arguments]
    if prepare is not None:
        prepare()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _open_streams(encoding: str) -> None:
    """Opens stdout and stderr as an interpreter does that starts with this PYTHONIOENCODING."""
    name, _, errors = encoding.partition(":")
    sys.stdout = open(1, "w", encoding=name, errors=errors or "strict", closefd=False)  # noqa: SIM115, they stay open
    sys.stderr = open(2, "w", 1, encoding=name, errors="backslashreplace", closefd=False)  # noqa: SIM115
