"""RunFolder: the files of a run, and the one place that knows their layout."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from mutual.engine.storage.checkpoint_store import CheckpointStore
from mutual.engine.storage.exports import EXPORT_SUFFIXES, exported_paths
from mutual.engine.storage.files import MARK, UNFINISHED, check_no_links, json_text, read_file, remove, sha256, unfinished, write_file
from mutual.engine.storage.reports import REPORT, is_report
from mutual.engine.storage.run_records import BEST, LAST, BestRecord, EpochRecord, FinalScores, InitialScores, RunSummary, TrackedRuns
from mutual.recipe import InputError, Recipe, dump_recipe, load_recipe

RECIPE, METRICS, SUMMARY = "recipe.yaml", "metrics.jsonl", "summary.json"
INITIAL_SCORES, FINAL_SCORES = "initial_scores.json", "test_scores.json"
CHARTS, HPARAMS = "charts", "hparams"
"""Folders of TensorBoard's files: one for each member of the group, and one of hyperparameters."""
TRACKED = "tracked.json"
"""By tracker the id under which its service knows the run."""
_EVENTS = re.compile(r"events\.out\.tfevents\.\d+\..*")
_TEXTS = (RECIPE, METRICS, INITIAL_SCORES, FINAL_SCORES, SUMMARY, TRACKED)
_RUN_FILES = (*_TEXTS, "checkpoints", LAST, BEST, "export")

_OF_EPOCH = r"-epoch\d+\.safetensors"
"""Behind the name of a peer: what the weights of one of its epochs are called."""
RecordT = TypeVar("RecordT", bound=BaseModel)
_DIGEST = "# sha256 of the lines above: "


class _Mark(BaseModel):
    """Content of the file that marks a run folder: the peers whose weights are written into it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    peers: list[Annotated[StrictStr, Field(pattern=r"^[A-Za-z]\w*$")]]


def epoch_name(peer: str, epoch: int) -> str:
    """Returns what the weights of an epoch of `peer` are called, beside its best ones.

    Example:
        >>> epoch_name("a", 12)
        'a-epoch12'
    """
    return f"{peer}-epoch{epoch}"


def peer_of_file(file: Path) -> str:
    """Returns the peer that a weights file of a run folder is of."""
    return file.stem.partition("-")[0]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: where it is; it need not exist.

    Example:
        >>> RunFolder(Path("runs/dml")).weights("best", "a").as_posix()
        'runs/dml/best/a.safetensors'
    """

    path: Path

    @classmethod
    def of(cls, recipe: Recipe) -> RunFolder:
        """Returns the folder in which `recipe` trains."""
        return cls(Path(recipe.output) / recipe.name)

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.path / RECIPE

    @property
    def export(self) -> Path:
        """Folder that `mutual.export` writes to."""
        return self.path / "export"

    def checkpoints(self, *, keep: int = 1) -> CheckpointStore:
        """Returns the store of the run's checkpoints, which keeps the last `keep`."""
        return CheckpointStore(self.path, keep=keep)

    def weights(self, kind: str, peer: str) -> Path:
        """Returns the path of a peer's `best` weights, or of its `last` ones, from the end of the last finished epoch."""
        return self.path / kind / f"{peer}.safetensors"

    def holds_run(self) -> bool:
        """Returns True if a training has left checkpoints, weights or exports."""
        folders = [(self.path / kind, ".safetensors") for kind in (BEST, LAST)]
        folders += [(self.export, suffix) for suffix in EXPORT_SUFFIXES.values()]
        return bool(self.checkpoints().resumable()) or any(any(folder.glob(f"*{suffix}")) for folder, suffix in folders)

    def check_unused(self) -> None:
        """Refuses a folder that holds a run.

        Raises:
            InputError: it holds a checkpoint, or trained weights.
        """
        if self.holds_run():
            content = "a checkpoint" if self.checkpoints().resumable() else "trained weights"
            raise InputError(f"{self.path} holds {content}; add --resume to go on, --overwrite to start over, or give another name=...")

    def check_owner(self) -> None:
        """Refuses a folder that holds files with a run's names but not the mark of a run, or links in the place of folders.

        Raises:
            InputError: it does, or it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file, where the run's folder should be; give another name=... or output=...")
        foreign = [name for name in _RUN_FILES if os.path.lexists(self.path / name)]
        if foreign and not (self.path / MARK).exists():
            raise InputError(
                f"{self.path} holds {', '.join(foreign)} and not the mark of a run ({MARK}), so that they are left alone; "
                "give another name=... or output=..."
            )
        folders = [self.path / name for name in (BEST, LAST, "export", CHARTS, HPARAMS)]
        check_no_links([*folders, self.checkpoints().folder, *self.checkpoints().resumable()], root=self.path)

    def clear(self) -> None:
        """Removes what earlier trainings wrote, and nothing else."""
        if (self.path / MARK).exists():
            remove(self._files_of(self._mark().peers), root=self.path)

    def initialize(self, recipe: Recipe, notes: dict[str, Any]) -> None:
        """Writes the mark of a run and the resolved recipe with a checksum; `notes` are for readers alone."""
        text = dump_recipe(recipe, notes=notes)
        write_file(self.path / MARK, _Mark(peers=list(recipe.peers)).model_dump_json().encode())
        write_file(self.path / RECIPE, f"{text}{_DIGEST}{sha256(text.encode())}\n".encode())

    def recipe(self, overrides: Sequence[str] = ()) -> Recipe:
        """Returns the recipe that was trained here, with `overrides` (key.path=value).

        Raises:
            InputError: this is no run folder, or its recipe was changed.
        """
        self.recipe_text()
        return load_recipe(self.path / RECIPE, overrides)

    def recipe_text(self) -> str:
        """Returns the text of the recipe that was trained here, with the notes behind it, after comparing its checksum.

        Raises:
            InputError: this is no run folder, or its recipe was changed.
        """
        file = self.path / RECIPE
        if not file.is_file():
            raise InputError(
                f"{self.path} is no run folder: it holds no {RECIPE}; give the folder that a training wrote, such as runs/NAME"
            )
        text, mark, digest = file.read_bytes().rpartition(_DIGEST.encode())
        if not mark:
            raise InputError(f"{file} has no checksum at its end: it was cut, or is of another version; use that version, or train again")
        if digest.strip() != sha256(text).encode():
            raise InputError(f"{file} is not as the run wrote it; undo the change, and give other values as key.path=value")
        return text.decode(errors="replace")  # for readers; `recipe` says what is wrong with it

    def notes(self) -> dict[str, Any]:
        """Returns the notes behind the recipe, such as the versions under `x-environment`.

        Raises:
            InputError: this is no run folder, or its recipe was changed.
        """
        _, _, notes = self.recipe_text().partition("\nx-")
        return dict(yaml.safe_load(f"x-{notes}")) if notes else {}

    def write_best(self, best: BestRecord) -> None:
        """Writes best.json."""
        write_file(self._best_file, json_text(best.model_dump(exclude_defaults=True), indent=1).encode())

    def read_best(self) -> BestRecord:
        """Returns what `write_best` has written.

        Raises:
            InputError: there is none yet, or it is damaged.
        """
        try:
            return BestRecord.model_validate_json(read_file(self._best_file))
        except FileNotFoundError as error:
            raise InputError(f"{self.path} has no best weights yet: no epoch has been evaluated") from error
        except (ValidationError, NotADirectoryError, IsADirectoryError) as error:
            raise InputError(
                f"{self._best_file} is damaged, or of another version; a run that is resumed writes it again at its next epoch"
            ) from error

    def write_initial_scores(self, scores: InitialScores) -> None:
        """Writes initial_scores.json."""
        write_file(self.path / INITIAL_SCORES, json_text(scores.model_dump()).encode())

    def read_initial_scores(self) -> InitialScores | None:
        """Returns what `write_initial_scores` has written; None where it is missing or damaged."""
        return self._read(InitialScores, INITIAL_SCORES)

    def write_final_scores(self, scores: FinalScores) -> None:
        """Writes test_scores.json."""
        write_file(self.path / FINAL_SCORES, json_text(scores.model_dump(), indent=1).encode())

    def read_final_scores(self) -> FinalScores | None:
        """Returns what `write_final_scores` has written; None where it is missing or damaged."""
        return self._read(FinalScores, FINAL_SCORES)

    def write_summary(self, summary: RunSummary) -> None:
        """Writes summary.json."""
        write_file(self.path / SUMMARY, json_text(summary.model_dump(), indent=1).encode())

    def read_summary(self) -> RunSummary | None:
        """Returns what `write_summary` has written; None where the run is not finished, or the file damaged."""
        return self._read(RunSummary, SUMMARY)

    def write_tracked(self, tracked: TrackedRuns) -> None:
        """Writes tracked.json."""
        write_file(self.path / TRACKED, json_text(tracked.model_dump(), indent=1).encode())

    def read_tracked(self) -> TrackedRuns:
        """Returns what `write_tracked` has written; no ids where it is missing or damaged."""
        return self._read(TrackedRuns, TRACKED) or TrackedRuns(ids={})

    def history(self) -> list[dict[str, Any]]:
        """Returns the records of metrics.jsonl, an epoch each.

        Raises:
            InputError: it is damaged.
        """
        file = self.path / METRICS
        try:
            return [EpochRecord.model_validate_json(line).model_dump(exclude_unset=True) for line in read_file(file).splitlines()]
        except FileNotFoundError:
            return []
        except ValidationError as error:
            raise InputError(f"{file} is damaged; a run that is resumed writes it again") from error

    def best_peer(self) -> str:
        """Returns the name of the best peer.

        Raises:
            InputError: no epoch has been evaluated, or no peer's best weights are left.
        """
        peer = self.read_best().peer
        if peer is None:
            raise InputError(f"{self.path} has no best weights yet: no epoch has been evaluated since they were lost or the run began")
        return peer

    def digests(self) -> dict[str, list[str]]:
        """Returns by file the digests of the weights in best.json; none where it is missing or damaged."""
        try:
            return self.read_best().sha256
        except InputError:
            return {}

    def verified_weights(self, kind: str, peer: str) -> Path:
        """Returns the path of a peer's `best` or `last` weights after comparing their checksum with best.json.

        Raises:
            InputError: it is missing, or another than the run wrote.
        """
        path, digest, previous = self.weights(kind, peer), self.digest(kind, peer), None
        while digest and digest not in self.read_best().sha256.get(f"{kind}/{peer}", []):
            if digest == previous:
                raise InputError(f"{path} is damaged: its checksum is not the one in best.json; bring it back, or train again")
            digest, previous = self.digest(kind, peer), digest  # a training may have replaced both files between the two reads
        if not digest:
            raise InputError(f"{path} is missing; resume the run, or take another peer with --peer")
        return path

    def digest(self, kind: str, peer: str) -> str:
        """Returns the sha256 of the peer's `best` or `last` weights; empty text where they are missing.

        Raises:
            OSError: they are there and cannot be read.
        """
        try:
            return sha256(self.weights(kind, peer).read_bytes())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return ""

    def _read(self, record: type[RecordT], name: str) -> RecordT | None:
        try:
            return record.model_validate_json(read_file(self.path / name))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValidationError):
            return None

    @property
    def _best_file(self) -> Path:
        return self.path / BEST / "best.json"

    def _mark(self) -> _Mark:
        try:
            return _Mark.model_validate_json((self.path / MARK).read_bytes())
        except ValidationError as error:
            raise InputError(f"{self.path / MARK} is damaged; the folder is left alone: give another name=... or output=...") from error

    def _files_of(self, peers: Sequence[str]) -> Iterator[Path]:
        """Yields the paths that trainings and exports of `peers` write to, whether they exist or not."""
        for path in (*(self.path / name for name in _TEXTS), self._best_file):
            yield from (path, unfinished(path))
        yield unfinished(self.path / REPORT)
        if is_report(self.path / REPORT):
            yield self.path / REPORT
        for peer in peers:
            for path in (self.weights(BEST, peer), self.weights(LAST, peer)):
                yield from (path, unfinished(path))
            pattern = rf"({re.escape(UNFINISHED)})?{peer}{_OF_EPOCH}"
            yield from (path for path in (self.path / BEST).glob(f"*{peer}-epoch*") if re.fullmatch(pattern, path.name))
        yield from exported_paths(self.export, peers)
        yield from self.checkpoints().files()
        for folder in (self.path, self.path / HPARAMS, *(self.path / CHARTS).glob("*")):
            yield from (path for path in folder.glob("events.*") if _EVENTS.fullmatch(path.name))
