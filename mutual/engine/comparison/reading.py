"""read_run: what a comparison reads of a finished run; read_arms: of all runs of its arms."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mutual.engine.comparison.arms import BEST_PEER, MEAN, Arm, ArmRuns, RunRecord
from mutual.engine.comparison.result import Epoch, Split
from mutual.engine.storage import RunFolder
from mutual.recipe import InputError, did_you_mean

Rows = Mapping[str, Mapping[str, float | None]]
_NO_METRICS = ("epoch",)
"""In best.json beside the metrics."""
_PAIRS = "pairs"  # beside the members, what compares them


def choose_images(folders: Sequence[Path], epoch: Epoch | None = None) -> tuple[Split, Epoch]:
    """Returns which images and which epoch's weights the runs in `folders` are compared by.

    The test images, which each run has scored once, by each peer's best weights; where some run has none, or the last epoch is asked for,
    the validation images: by the last epoch unless the best one is asked for, which was chosen on them and is optimistic.
    """
    if epoch != "last" and all((folder / "test_scores.json").is_file() for folder in folders):
        return "test", "best"
    return "val", epoch or "last"


def read_run(folder: Path, *, split: Split, epoch: Epoch) -> RunRecord:
    """Returns what a comparison reads of the run in `folder`.

    Args:
        folder: the run folder.
        split: `test`: the scores on the test images, by the best weights; `val`: those on the validation images.
        epoch: `val`: each peer's `best` evaluation, or the `last` one.

    Raises:
        InputError: this is no run folder, the run is not finished, or what it has written is damaged.
    """
    run = RunFolder(folder)
    recipe = run.recipe()
    summary = run.read_summary()
    if summary is None:
        command = f"python -m mutual.train {shlex.quote(str(folder / 'recipe.yaml'))} --resume"
        raise InputError(f"{folder} has no summary.json: it is not finished, or of an older version; `{command}` finishes it and writes it")
    history = run.history()
    rows = {name: _as_metrics(row) for name, row in _scores(run, split, epoch, history).items() if name != _PAIRS}
    best_peer = run.read_best().peer
    trained = [rows[name] for name in recipe.trainable if name in rows]
    if trained:
        rows[MEAN] = {
            key: math.fsum(row[key] for row in trained) / len(trained) for key in trained[0] if all(key in row for row in trained)
        }
    if best_peer in rows:
        rows[BEST_PEER] = rows[best_peer]
    return RunRecord(folder, recipe, rows, split, epoch, best_peer, history, summary)


def read_arms(arms: Sequence[Arm], folders: Mapping[str, Mapping[int, Path]], *, epoch: Epoch | None = None) -> list[ArmRuns]:
    """Returns the runs of the arms.

    Args:
        arms: which.
        folders: by arm and seed the run folder.
        epoch: see `choose_images`.

    Raises:
        InputError: a run is not finished or damaged, or has no scores of the member that the arm is compared by.
    """
    split, chosen_epoch = choose_images([folder for runs in folders.values() for folder in runs.values()], epoch)
    records: dict[Path, RunRecord] = {}
    arm_runs = []
    for arm in arms:
        runs = {}
        for seed, folder in folders[arm.name].items():
            if folder not in records:
                records[folder] = read_run(folder, split=split, epoch=chosen_epoch)
            runs[seed] = records[folder]
            _check_member(arm, runs[seed])
        arm_runs.append(ArmRuns(arm, runs))
    return arm_runs


def _check_member(arm: Arm, run: RunRecord) -> None:
    if arm.member in run.scores:
        return
    hint = "; the ensemble of the best weights is not scored on validation images: add --epoch last" if arm.member == "ensemble" else ""
    raise InputError(f"{run.folder} has no scores of {arm.member!r}{hint or did_you_mean(arm.member, run.scores)}")


def _scores(run: RunFolder, split: Split, epoch: Epoch, history: Sequence[Mapping[str, Any]]) -> Rows:
    if split == "test":
        found = run.read_final_scores()
        if found is None:
            raise InputError(f"{run.path / 'test_scores.json'} is damaged or of another version; resume the run, which writes it again")
        return found.test
    if epoch == "best":
        return run.read_best().peers
    evaluated = [record["eval"] for record in history if record.get("eval")]
    if not evaluated:
        raise InputError(f"{run.path / 'metrics.jsonl'} has no evaluation; resume the run, which writes it again")
    return evaluated[-1]


def _as_metrics(row: Mapping[str, float | None]) -> dict[str, float]:
    return {key: math.nan if value is None else float(value) for key, value in row.items() if key not in _NO_METRICS}
