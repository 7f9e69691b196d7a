"""Run folders without a training, and a stand-in for `mutual.train` that makes them: a comparison takes them for real ones.

As a script it is a launcher: `python stand_in_runs.py -m mutual.train RECIPE key=value ... --resume`. It imports no torch,
writes an epoch each few milliseconds, and ends at SIGTERM with a checkpoint, from which it goes on. The variable STAND_IN says which runs
fail or wait.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from mutual.engine.storage import METRICS, BestRecord, FinalScores, RunFolder, RunSummary, write_file
from mutual.recipe import Recipe, load_recipe

EPOCH_SECONDS = 0.02


def recipe_document(**sections):
    """A recipe of two peers that learn from each other, as a dict."""
    document = {
        "name": "pair",
        "data": {"dataset": "fake", "num_train": 40, "num_val": 12, "image_size": 8, "channels": 1, "num_classes": 4, "batch_size": 8},
        "peers": {"a": {"model": "small_cnn"}, "b": {"model": "small_cnn"}},
        "objectives": [{"loss": "cross_entropy"}, {"loss": "dml"}],
        "train": {"epochs": 3},
    }
    return {**document, **sections}


def scores(recipe: Recipe, epoch: int):
    """Scores that depend on the seed, the number of objectives and the epoch."""
    top1 = 0.5 + 0.001 * recipe.seed + 0.01 * epoch + 0.02 * len(recipe.objectives)
    rows = {name: {"top1": top1 + 0.1 * index, "nll": 2 - top1, "ece": 0.1} for index, name in enumerate(recipe.peers)}
    return {**rows, "ensemble": {"top1": top1 + 0.3, "nll": 1.0, "ece": None}, "pairs": {"agreement": 0.5, "kl": 0.1}}


def write_epoch(folder: RunFolder, recipe: Recipe, epoch: int):
    """Writes what a run has written at the end of an epoch."""
    lines = [json.dumps({"epoch": each, "step": 5 * each, "train": {}, "eval": scores(recipe, each)}) for each in range(1, epoch + 1)]
    write_file(folder.path / METRICS, "".join(f"{line}\n" for line in lines).encode())
    peers = {name: {"epoch": epoch, **row} for name, row in scores(recipe, epoch).items() if name in recipe.peers}
    folder.write_best(BestRecord(peer="b", metric="top1", peers=peers, sha256={}))
    write_file(folder.weights("last", "a"), b"weights")


def finish(folder: RunFolder, recipe: Recipe, *, test: bool = False):
    """Writes what a run writes last."""
    if test:
        folder.write_final_scores(FinalScores(digest="", peer="b", images=12, test=scores(recipe, 100)))
    epochs = recipe.train.epochs
    folder.write_summary(RunSummary(epoch=epochs, update=5 * epochs, processes=1, device="cpu", peak_bytes=1, sent_bytes=0.0))


def write_run(folder: Path, document, *, seed: int = 0, finished: bool = True, test: bool = False, overrides=()):
    """Writes a run folder as a training would and returns its path."""
    run = RunFolder(folder)
    recipe = load_recipe(document, [f"seed={seed}", f"name={folder.name}", f"output='{folder.parent}'", *overrides])
    run.initialize(recipe.resolved(), {})
    write_epoch(run, recipe, recipe.train.epochs if finished else 1)
    if finished:
        finish(run, recipe, test=test)
    return folder


def launcher(**behaviour):
    """What --launcher is given.

    Args:
        behaviour: `wait`: the name of a run that waits in its first epoch to be stopped; `fail`: the name of one that fails, as soon as the
            former waits, and its exit code.
    """
    os.environ["STAND_IN"] = json.dumps(behaviour)
    return f"{sys.executable} {__file__}"


def train(arguments):
    """Stands in for `mutual.train`."""
    behaviour = json.loads(os.environ.get("STAND_IN", "{}"))
    words = [word for word in arguments if not word.startswith("-") and word != "mutual.train"]
    recipe = load_recipe(words[0], words[1:])
    run = RunFolder.of(recipe)
    record = Path(recipe.output) / "starts.txt"
    record.parent.mkdir(parents=True, exist_ok=True)
    with record.open("a") as file:
        file.write(f"{recipe.name} {os.environ.get('OMP_NUM_THREADS', '-')}\n")
    sys.stdout.write("epoch 1 ...\n")
    sys.stdout.flush()
    if behaviour.get("fail", [""])[0] == recipe.name:
        while "wait" in behaviour and not (Path(recipe.output) / behaviour["wait"] / METRICS).exists():
            time.sleep(0.01)
        sys.stderr.write("mutual: warning: a warning\nmutual: the disk is full\nExceptions of a launcher ...\n")
        return behaviour["fail"][1]
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    history = run.history() if "--resume" in arguments else []
    run.initialize(recipe.resolved(), {})
    for epoch in range(len(history) + 1, recipe.train.epochs + 1):
        write_epoch(run, recipe, epoch)
        time.sleep(EPOCH_SECONDS)
        while behaviour.get("wait") == recipe.name and not stopped:
            time.sleep(0.01)
        if stopped:
            (Path(recipe.output) / f"{recipe.name}.stopped").touch()
            return 1
    finish(run, recipe, test=isinstance(recipe.data.val, float))
    return 0


if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
