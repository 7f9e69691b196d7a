"""ComparisonFolder: the files of a comparison, beside the run folders of its arms."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from mutual.engine.comparison.arms import Arm
from mutual.engine.comparison.planning import folder_names
from mutual.engine.comparison.result import COMPARISON, ArmSummary, Comparison
from mutual.engine.storage import LOCK, MARK, LockWords, RunFolder, check_no_links, json_text, locked, read_file, sha256, write_file
from mutual.recipe import InputError, Recipe, dump_recipe

COMPARISON_MARK = ".mutual-comparison.json"
"""The mark of a comparison's folder; a folder that has files and not this one is left alone."""
_FLOPS, _ARMS, _LOGS = "flops.json", "arms", "logs"
_WORDS = LockWords("compared in", "comparison", "give another --name")


_FileName = Annotated[StrictStr, Field(pattern=r"^[^./\\-][^/\\]*$", max_length=200)]
"""What `folder_name` may give: the mark may be anybody's, and files are written under these names."""


class _Mark(BaseModel):
    """Content of the mark: by the name of each arm that of its run folders, without the seed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    arms: dict[StrictStr, _FileName] = {}


class Flops(BaseModel):
    """What the training of an arm takes: see `ArmRuns`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flops: float | None
    note: str
    images: int


@dataclass(frozen=True)
class ComparisonFolder:
    """The folder of one comparison.

    Attributes:
        path: where it is; it need not exist.
    """

    path: Path

    @property
    def is_comparison(self) -> bool:
        """Whether it carries the mark of a comparison."""
        return (self.path / COMPARISON_MARK).is_file()

    @contextmanager
    def exclusive_access(self) -> Iterator[None]:
        """Context in which no other comparison works in the folder, which is created where there is none.

        Raises:
            InputError: another one does, or the folder is something else's.
        """
        self._check_owner()
        with locked(self.path, _WORDS):
            self._check_owner()
            yield

    def write_arms(self, arms: Sequence[Arm]) -> dict[str, str]:
        """Writes the mark and the recipes of arms that are trained; returns by arm's name that of its files."""
        known = self.file_names()
        names = {**known, **{name: file for name, file in folder_names([*known, *(arm.name for arm in arms)]).items() if name not in known}}
        write_file(self.path / COMPARISON_MARK, _Mark(arms=names).model_dump_json().encode())
        for arm in arms:
            recipe = arm.recipe.model_copy(update={"name": names[arm.name], "output": str(self.path)})
            write_file(self.recipe_file(names[arm.name]), dump_recipe(recipe).encode())
        return names

    def file_names(self) -> dict[str, str]:
        """Returns by the name of each arm that has been written that of its files."""
        try:
            return _Mark.model_validate_json(read_file(self.path / COMPARISON_MARK)).arms
        except (FileNotFoundError, ValidationError):
            return {}

    def arm_of(self, run_name: str) -> str | None:
        """Returns the arm whose run is called so; None where it is none of this comparison."""
        return next((arm for arm, name in self.file_names().items() if run_name.rpartition("-seed")[0] == name), None)

    def recipe_file(self, name: str) -> Path:
        """Returns where the recipe of the arm with these files is."""
        return self.path / _ARMS / f"{name}.yaml"

    def run(self, name: str, seed: int) -> RunFolder:
        """Returns the run folder of an arm under `seed`."""
        return RunFolder(self.path / f"{name}-seed{seed}")

    def log(self, run: RunFolder) -> Path:
        """Returns the file that holds what the training of `run` has printed."""
        return self.path / _LOGS / f"{run.path.name}.log"

    def write(self, comparison: Comparison) -> None:
        """Writes comparison.json."""
        write_file(self.path / COMPARISON, json_text(comparison.model_dump(), indent=1).encode())

    def read(self) -> Comparison | None:
        """Returns what `write` has written; None where there is none yet.

        Raises:
            InputError: it is damaged.
        """
        file = self.path / COMPARISON
        try:
            return Comparison.model_validate_json(read_file(file))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValidationError, IsADirectoryError) as error:
            raise InputError(f"{file} is damaged, or of another version; the mutual.compare that made it writes it again") from error

    def find_runs(self, arm: ArmSummary) -> dict[int, Path]:
        """Returns by seed where the runs of an arm are: beside comparison.json, moved with it perhaps, or as it names them."""
        beside = {seed: self.path / PurePath(recorded).name for seed, recorded in arm.runs.items()}
        return {seed: beside[seed] if beside[seed].is_dir() else Path(recorded) for seed, recorded in arm.runs.items()}

    def read_flops(self, recipe: Recipe, **given: float | None) -> Flops | None:
        """Returns what was counted for `recipe` with these arguments; None where nothing was."""
        try:
            return Flops.model_validate(self._all_flops()[_digest(recipe, given)])
        except (KeyError, ValidationError):
            return None

    def write_flops(self, recipe: Recipe, flops: Flops, **given: float | None) -> None:
        """Keeps what was counted for `recipe` with these arguments."""
        known = {**self._all_flops(), _digest(recipe, given): flops.model_dump()}
        write_file(self.path / _FLOPS, json_text(known, indent=1).encode())

    def _all_flops(self) -> Mapping[str, object]:
        try:
            found = json.loads(read_file(self.path / _FLOPS))
        except (FileNotFoundError, ValueError, RecursionError):  # it is counted again
            return {}
        return found if isinstance(found, dict) else {}

    def _check_owner(self) -> None:
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise InputError(f"{self.path} is a file, where the comparison's folder should be; give another --name or --output")
        if not self.path.is_dir() or self.is_comparison:
            check_no_links([self.path / _ARMS, self.path / _LOGS], root=self.path)
            return
        if (self.path / MARK).exists():
            raise InputError(f"{self.path} is a run folder, not a comparison's; give another --name or --output")
        if any(path.name != LOCK for path in self.path.iterdir()):
            raise InputError(
                f"{self.path} holds files and not the mark of a comparison ({COMPARISON_MARK}), so that it is left alone; "
                "give another --name or --output"
            )


def _digest(recipe: Recipe, given: Mapping[str, float | None]) -> str:
    """Returns a digest of what training `recipe` computes, whatever its seed and its folder."""
    content = recipe.model_dump(mode="json", exclude={"name", "output", "seed"})
    return sha256(json.dumps([content, given], sort_keys=True).encode())
