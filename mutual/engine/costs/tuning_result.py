"""TuningResult: what tuning has measured and found; tuning_table: the same as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TuningRow:
    """A setting that was tried.

    Attributes:
        label: what it is.
        values: by key path what was set: it, and what was taken before it.
        step_seconds: median seconds of an update on the slowest rank; None if it was left out.
        step_ratio: median over the rounds of its seconds divided by those of the recipe as given in the same round.
        note: why it was left out, or not taken though it is fast.
    """

    label: str
    values: Mapping[str, Any]
    step_seconds: float | None
    step_ratio: float | None
    note: str = ""


@dataclass(frozen=True)
class TuningResult:
    """What was tried, and what was found.

    Attributes:
        name: the recipe's name.
        rows: what was tried, in this order; the first is the recipe as given.
        values: by key path what makes an update fastest, as far as the recipe does not have it.
        step_ratio: of an update with these values.
        seconds: what the measurement took.
    """

    name: str
    rows: Sequence[TuningRow]
    values: Mapping[str, Any]
    step_ratio: float
    seconds: float

    @property
    def overrides(self) -> list[str]:
        """The values as words for a command line; what is null in any case is left out."""
        words = {path: str(value).lower() if isinstance(value, bool) else value for path, value in self.values.items()}
        return [f"{path}={word}" for path, word in words.items() if word is not None]


def tuning_table(result: TuningResult) -> str:
    """Returns what was tried as lines, and below what was found; times in milliseconds."""
    width = max(len(row.label) for row in result.rows)
    lines = [f"{'':{width}} {'step ms':>9} {'ratio':>6}"]
    for row in result.rows:
        times = f"{'':16}" if row.step_seconds is None else f"{1e3 * row.step_seconds:9.1f} {row.step_ratio:6.2f}"
        lines.append(f"{row.label:{width}} {times}  {row.note}".rstrip())
    found = " ".join(result.overrides) or "nothing is faster than the recipe as given"
    ratio = f": {result.step_ratio:.2f} of the recipe as given" if result.overrides else ""
    return "\n".join([*lines, f"tuned in {result.seconds:.0f} s: {found}{ratio}"])
