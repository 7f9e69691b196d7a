"""Runs the tests against mutants: one pytest session collects, and each mutant is a fork of it that runs the tests that reach its lines.

A fork swaps the code of the mutated function in place, so that nothing is imported anew. Processes that tests fork themselves (`forks`)
have the mutant too; those that they start as a command line have not.
"""

from __future__ import annotations

import ast
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from mutants import Mutant

ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Test:
    """A passing test: how long it takes, in seconds, and which lines of which files it executes."""

    number: int
    seconds: float
    lines: dict[str, list[int]]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: `killed`, `timeout` (as good), `survived` or `unreached`, and how many tests were to notice it."""

    mutant: Mutant
    result: str
    num_tests: int


class Runner:
    """A pytest plugin that runs mutants in place of the tests."""

    def __init__(self, mutants: Sequence[tuple[ast.Module, Mutant]], *, jobs: int, budget: float, record: Path | None) -> None:
        """Each mutant gets its module's tests, and others for `budget` seconds together; what all execute is kept in `record`."""
        self.mutants = mutants
        self.jobs = jobs
        self.budget = budget
        self.record = record
        self.outcomes: list[Outcome] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Records what each test executes, then runs the mutants."""
        for module in {mutant.path for _, mutant in self.mutants}:
            importlib.import_module(_module_name(module))
        gc.collect()
        gc.freeze()
        tests = self._tests(session.items)
        print(f"{len(tests)} of {len(session.items)} tests pass, in {sum(test.seconds for test in tests):.0f} s", flush=True)
        work = []
        for tree, mutant in self.mutants:
            chosen = self._reaching(tests, mutant, session.items)
            if chosen:
                limit = 10 + 5 * sum(test.seconds for test in chosen)
                work.append((_MutantRun(tree, mutant, [session.items[test.number] for test in chosen]), limit))
            else:
                self.outcomes.append(Outcome(mutant, "unreached", 0))
        for number, (run, code) in enumerate(_run_forks(work, self.jobs), start=1):
            result = "survived" if code == 0 else "timeout" if code is None else "killed"
            self.outcomes.append(Outcome(run.mutant, result, len(run.items)))
            if result == "survived":
                print(f"survived: {run.mutant.path}:{run.mutant.line} {run.mutant.function}: {run.mutant.change}", flush=True)
            if number % 50 == 0:
                print(f"{number} of {len(work)}", flush=True)
        return True

    def _tests(self, items: Sequence[pytest.Item]) -> list[Test]:
        """Returns the tests that pass, from the record and, where it lacks them, from a run of each."""
        known = {} if self.record is None or not self.record.exists() else json.loads(self.record.read_text())
        with tempfile.TemporaryDirectory() as folder:
            runs = [_Recording(item, Path(folder) / str(number)) for number, item in enumerate(items) if item.nodeid not in known]
            for done, (run, code) in enumerate(_run_forks([(run, 120.0) for run in runs], self.jobs), start=1):
                if code == 0:
                    known[run.item.nodeid] = run.result()
                else:
                    print(f"left out, as it does not pass here: {run.item.nodeid}", flush=True)
                if done % 50 == 0:
                    print(f"recorded {done} of {len(runs)}", flush=True)
        if self.record is not None:
            self.record.write_text(json.dumps(known))
        numbers = {item.nodeid: number for number, item in enumerate(items)}
        return [Test(numbers[name], **known[name]) for name in numbers if name in known]

    def _reaching(self, tests: Sequence[Test], mutant: Mutant, items: Sequence[pytest.Item]) -> list[Test]:
        """Returns tests that execute the mutant's lines: all of its module, then of its package and others within the budget."""
        wanted, path = set(mutant.lines), str(mutant.path)
        reaching = [test for test in tests if not wanted.isdisjoint(test.lines.get(path, ()))]
        folder = Path("tests", *mutant.path.parts[1:-1])
        mirror = folder / f"test_{mutant.path.name}"

        def order(test: Test) -> tuple[bool, bool, float]:
            file = items[test.number].path.relative_to(ROOT)
            return file != mirror, file.parent != folder, test.seconds

        chosen, seconds = [], 0.0
        for test in sorted(reaching, key=order):
            if order(test)[0]:
                seconds += test.seconds
                if chosen and seconds > self.budget:
                    break
            chosen.append(test)
        return chosen


class _Recording:
    """Runs one test under a trace of our own modules."""

    def __init__(self, item: pytest.Item, folder: Path) -> None:
        self.item, self.folder = item, folder

    def __call__(self) -> int:
        self.folder.mkdir()
        _fork_ranks_here(self._traced)
        start = time.monotonic()
        failed = self._traced(_failures, [self.item])
        (self.folder / "seconds").write_text(str(time.monotonic() - start))
        return int(failed)

    def result(self) -> dict[str, Any]:
        lines: dict[str, set[int]] = defaultdict(set)
        for path in self.folder.glob("*.json"):
            for name, found in json.loads(path.read_text()).items():
                lines[name] |= set(found)
        seconds = float((self.folder / "seconds").read_text())
        return {"seconds": seconds, "lines": {name: sorted(found) for name, found in lines.items()}}

    def _traced(self, work: Callable[..., Any], *arguments: Any) -> Any:
        prefix = f"{ROOT / 'mutual'}{os.sep}"
        lines: dict[str, set[int]] = defaultdict(set)

        def trace(frame: types.FrameType, event: str, argument: Any) -> Any:
            name = frame.f_code.co_filename
            if not name.startswith(prefix):
                return None
            seen = lines[name]

            def local(frame: types.FrameType, event: str, argument: Any) -> Any:
                seen.add(frame.f_lineno)
                return local

            return local

        threading.settrace(trace)
        sys.settrace(trace)
        try:
            return work(*arguments)
        finally:
            sys.settrace(None)
            relative = {str(Path(name).relative_to(ROOT)): sorted(found) for name, found in lines.items()}
            (self.folder / f"{os.getpid()}.json").write_text(json.dumps(relative))


class _MutantRun:
    """Puts a mutant into this process and runs tests until one fails."""

    def __init__(self, tree: ast.Module, mutant: Mutant, items: Sequence[pytest.Item]) -> None:
        self.tree, self.mutant, self.items = tree, mutant, items

    def __call__(self) -> int:
        _fork_ranks_here(lambda work, *arguments: work(*arguments))
        self.mutant.apply()
        swap_code(sys.modules[_module_name(self.mutant.path)], self.tree, self.mutant.function)
        return int(_failures(self.items))


def swap_code(module: types.ModuleType, tree: ast.Module, function: str) -> None:
    """Gives the function of that qualified name in `module` the code and the defaults that it has in `tree`."""
    namespace = {**vars(module)}
    exec(compile(tree, str(module.__file__), "exec"), namespace)
    for old, new in zip(_functions(vars(module), function), _functions(namespace, function), strict=True):
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def _functions(namespace: dict[str, Any], name: str) -> list[types.FunctionType]:
    first, *rest = name.split(".")
    found = namespace[first]
    for part in rest:
        found = vars(found)[part]
    if isinstance(found, property):
        return [each for each in (found.fget, found.fset) if isinstance(each, types.FunctionType)]
    found = getattr(found, "func", getattr(found, "__func__", found))  # cached properties, static and class methods
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return [found]


def _failures(items: Sequence[pytest.Item]) -> bool:
    """Runs tests until one fails; returns whether one did."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        if any(report.failed for report in runtestprotocol(item, nextitem=following, log=False)):
            return True
    return False


def _fork_ranks_here(around: Callable[..., Any]) -> None:
    """Lets `forks` fork its processes from this one, which has the mutant, rather than from a server without it."""
    import multiprocessing

    import forks

    original = forks._run

    def run(*arguments: Any) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        around(original, *arguments)

    forks._run = run
    forks._CONTEXT = multiprocessing.get_context("fork")
    forks.forkserver = types.SimpleNamespace(ensure_running=lambda: None)


def _run_forks(work: Sequence[tuple[Any, float]], jobs: int) -> Iterator[tuple[Any, int | None]]:
    """Calls each piece of work in a fork, `jobs` at a time; yields it with its exit code, None where it passed its limit of seconds."""
    waiting, running = list(reversed(work)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            piece, limit = waiting.pop()
            running[_fork(piece)] = piece, time.monotonic() + limit
        for process, (piece, deadline) in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if not ended and time.monotonic() < deadline:
                continue
            _kill_group(process)  # what it may have left behind, too
            if not ended:
                os.waitpid(process, 0)
            del running[process]
            yield piece, os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.002)


def _fork(piece: Callable[[], int]) -> int:
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
        code = piece()
    finally:
        os._exit(code)


def _kill_group(process: int) -> None:
    try:
        os.killpg(process, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")
