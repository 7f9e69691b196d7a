"""Frameworks in turn, an update of each a round: the ratios of their times to the first one's."""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
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


def table(results: Mapping[str, Sequence[Measured]]) -> str:
    """Returns a Markdown table, a framework a row and a job a column: by what factor its update takes longer than the first framework's.

    Each is the median over the rounds of the times of one round, on the clock / of the processor; the first row has milliseconds. Below
    are the versions, and why a framework was skipped.
    """
    columns = list(results.values())
    lines = [f"| | {' | '.join(results)} |", f"|---|{'---|' * len(columns)}"]
    for row in zip(*columns, strict=True):
        cells = [_cell(measured, column[0]) for measured, column in zip(row, columns, strict=True)]
        lines.append(f"| {row[0].name} | {' | '.join(cells)} |")
    everyone = [measured for column in columns for measured in column]
    versions = {name: version for measured in everyone for name, version in measured.versions.items()}
    skipped = dict.fromkeys(f"{each.name} is skipped: {each.skipped}" for each in everyone if each.skipped is not None)
    return "\n".join([*lines, "", ", ".join(f"{name} {version}" for name, version in versions.items()), *skipped])


def _cell(measured: Measured, first: Measured) -> str:
    if measured.skipped is not None or not measured.rounds or first.skipped is not None:
        return ""
    if measured is first:
        return f"{measured.milliseconds:.0f} ms"
    return f"{measured.ratio(first, 'seconds'):.2f} / {measured.ratio(first, 'cpu_seconds'):.2f}"


def _constant(module: str, name: str) -> str:
    """Returns a constant of a framework's module, which is read and not imported: its framework may be in another environment."""
    tree = ast.parse((Path(__file__).parent / "frameworks" / f"{module}.py").read_text())
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", None) == name:
            return ast.literal_eval(statement.value)
    raise AssertionError(f"{module} has no {name}")
