"""RunFolder: what a training leaves on disk, and the one place that knows its layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutual.engine.files import remove_unfinished, write_file
from mutual.recipe import InputError, Recipe, dump_recipe, load_recipe

_OURS = ("recipe.yaml", "metrics.jsonl", "checkpoints", "last", "best", "export")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @classmethod
    def of(cls, recipe: Recipe) -> RunFolder:
        """The folder in which `recipe` trains."""
        return cls(Path(recipe.output) / recipe.name)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        """Folder that `mutual.export` writes to."""
        return self.path / "export"

    def last(self, peer: str) -> Path:
        """The peer's weights at the end of the last finished epoch."""
        return self.path / "last" / f"{peer}.safetensors"

    def best(self, peer: str) -> Path:
        """The peer's best weights."""
        return self.path / "best" / f"{peer}.safetensors"

    def holds_checkpoint(self) -> bool:
        """True where a training has left something to resume from."""
        return any(self.checkpoints.glob("step_*"))

    def clear(self) -> None:
        """Removes what earlier trainings wrote, and nothing else."""
        for name in _OURS:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for events in self.path.glob("events.out.tfevents.*"):
            events.unlink()

    def write_recipe(self, recipe: Recipe) -> None:
        """Writes the resolved recipe."""
        self.path.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.path)
        write_file(self.path / "recipe.yaml", dump_recipe(recipe).encode())

    def recipe(self, overrides: Sequence[str] = ()) -> Recipe:
        """Returns the recipe that was trained here, with `overrides` (key.path=value).

        Raises:
            InputError: this is no run folder.
        """
        if not (self.path / "recipe.yaml").exists():
            raise InputError(
                f"{self.path} is no run folder: it holds no recipe.yaml; give the folder that a training wrote, such as runs/NAME"
            )
        return load_recipe(self.path / "recipe.yaml", overrides)

    def write_best(self, best: dict[str, Any]) -> None:
        """Writes which peer is best, by which metric, and every peer's best epoch."""
        write_file(self.path / "best" / "best.json", json.dumps(best, indent=1).encode())

    def read_best(self) -> dict[str, Any]:
        """Returns what `write_best` wrote.

        Raises:
            InputError: no epoch of this run has been evaluated yet.
        """
        try:
            best: dict[str, Any] = json.loads((self.path / "best" / "best.json").read_text())
        except FileNotFoundError as error:
            raise InputError(f"{self.path} has no best weights yet: no epoch has been evaluated") from error
        return best
