"""Frameworks in turn, an update of each a round: the ratios of their times to the first one's."""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from peers.jobs import Job

ROOT = Path(__file__).parents[2]
WARMUP = 3
"""Rounds that are not counted."""


class Framework(Protocol):
    """Trains a job, an update at a time.

    Attributes:
        name: in the table.
        versions: of what runs.
        skipped: why it does not take part; None where it does.
    """

    name: str
    versions: dict[str, str]
    skipped: str | None

    def update(self) -> dict[str, float]:
        """Returns the `seconds` and `cpu_seconds` of one update."""
        ...


class Worker:
    """A framework in a process of its own, which works only while it is asked for an update.

    Args:
        module: of `peers.frameworks`.
        job: what it trains.
        python: the interpreter.
        threads: of an operation.
    """

    def __init__(self, module: str, job: Job, *, python: str, threads: int) -> None:
        self.name = _constant(module, "NAME")
        self._folder = tempfile.TemporaryDirectory()  # some frameworks write into where they are
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = {
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": str(threads),
            "FLAGS_paddle_num_threads": str(threads),
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._errors = Path(self._folder.name) / "stderr"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [python, "-m", "peers.worker", module, job.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=self._folder.name,
                env={**os.environ, **variables},
            )
        first = self._answer()
        self.versions: dict[str, str] = first.get("versions", {})
        self.skipped: str | None = first.get("skipped")

    def update(self) -> dict[str, float]:
        """Returns what an update took, by the worker's own clock; one that ends is skipped from then on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        message = self._answer()
        self.skipped = message.get("skipped")
        return message

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        lines = self._errors.read_text().strip().splitlines()
        return {"skipped": lines[-1] if lines else f"ended with {self._process.returncode}"}


@dataclass
class Measured:
    """What the updates of a framework took.

    Attributes:
        name: its name.
        versions: of what runs.
        skipped: why it did not take part; None where it did.
        rounds: `seconds` and `cpu_seconds` of each counted update.
    """

    name: str
    versions: dict[str, str]
    skipped: str | None = None
    rounds: list[dict[str, float]] = field(default_factory=list)

    def ratio(self, to: Measured, key: str) -> float:
        """Returns the median over the rounds of its time by that of another in the same round."""
        return statistics.median(own[key] / other[key] for own, other in zip(self.rounds, to.rounds, strict=True))

    @property
    def milliseconds(self) -> float:
        """The median of an update."""
        return 1e3 * statistics.median(each["seconds"] for each in self.rounds)


def measure(frameworks: Sequence[Framework], *, rounds: int) -> list[Measured]:
    """Measures frameworks in turn, every other round in reverse order; those that end early are skipped with the reason."""
    measured = {framework.name: Measured(framework.name, framework.versions, framework.skipped) for framework in frameworks}
    for number in range(WARMUP + rounds):
        for framework in list(frameworks)[:: 1 if number % 2 == 0 else -1]:
            result = measured[framework.name]
            if result.skipped is not None:
                continue
            times = framework.update()
            result.skipped = framework.skipped
            if number >= WARMUP and result.skipped is None:
                result.rounds.append(times)
    return list(measured.values())


def table(job: Job, results: Sequence[Measured]) -> str:
    """Returns the rows of a Markdown table: milliseconds, and the ratios to the first one's time, on the clock and of the processor."""
    first = results[0]
    if first.skipped is not None:
        return f"| **{job.title}** | {first.name} is skipped: {first.skipped} | | | |"
    lines = [f"| **{job.title}** | | | | |"]
    for result in results:
        versions = ", ".join(f"{name} {version}".strip() for name, version in result.versions.items())
        if result.skipped is not None:
            lines.append(f"| {result.name} | skipped: {result.skipped} | | | |")
            continue
        ratios = f"{result.ratio(first, 'seconds'):.2f} | {result.ratio(first, 'cpu_seconds'):.2f}"
        lines.append(f"| {result.name} | {versions} | {result.milliseconds:.0f} | {ratios} |")
    return "\n".join(lines)


HEAD = "| update of | versions | ms | ratio | processor |\n|---|---|---|---|---|"


def _constant(module: str, name: str) -> str:
    """Returns a constant of a framework's module, which is read and not imported: its framework may be in another environment."""
    tree = ast.parse((Path(__file__).parent / "frameworks" / f"{module}.py").read_text())
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", None) == name:
            return ast.literal_eval(statement.value)
    raise AssertionError(f"{module} has no {name}")
