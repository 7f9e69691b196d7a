"""RunResult: what a training left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutual.engine.monitoring import Scores


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a training left; the same on every rank.

    Attributes:
        folder: the run folder.
        best_peer: the best peer's name.
        metrics: the last evaluation: by peer and for the ensemble its metrics.
        best_scores: by peer its best scores, those of its weights in `best`.
        history: what metrics.jsonl says of each epoch, of a resumed run too: from the first on, or from epoch 0, the scores before the
            first update, where peers begin with weights or are frozen.
        test: the scores on the test images, by each peer's best weights; empty where the data have none.
    """

    folder: Path
    best_peer: str
    metrics: Scores
    best_scores: dict[str, dict[str, float | None]]
    history: list[dict[str, Any]]
    test: Scores = field(default_factory=dict)

    def __repr__(self) -> str:
        best, test = (_text(rows.get(self.best_peer, {})) for rows in (self.best_scores, self.test))
        scores = (f" with {best}" if best else "") + (f"; on test {test}" if test else "")
        num_epochs = sum(record["epoch"] > 0 for record in self.history)
        epochs = f"{num_epochs} epoch{'' if num_epochs == 1 else 's'}"
        return f"<RunResult {self.folder}: {epochs}; the best peer is {self.best_peer!r}{scores}>"


def _text(row: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if value is not None)
