"""Arms whose runs were never trained: their scores and curves are made up."""

from __future__ import annotations

import functools
from pathlib import Path

from support import tiny_document

from mutual.engine.comparison import MEAN, Arm, ArmRuns, RunRecord
from mutual.engine.storage import RunSummary
from mutual.recipe import parse_recipe

EPOCHS = 4


@functools.lru_cache
def tiny_recipe(*, multi_label=False, best_metric=None, frozen=False):
    document = tiny_document(train={"epochs": EPOCHS, "best_metric": best_metric})
    document["peers"]["b"]["frozen"] = frozen
    document["objectives"] = [{"loss": "bce" if multi_label else "cross_entropy"}]
    if multi_label:
        document["data"] |= {"multi_label": True}
    return parse_recipe(document)


def made_up_run(name, seed, row, *, member=MEAN, split="test", epoch="best", history=(), epochs=EPOCHS, recipe=None):
    return RunRecord(
        folder=Path("runs") / name / f"seed{seed}",
        recipe=recipe or tiny_recipe(),
        scores={member: row},
        split=split,
        epoch=epoch,
        best_peer=None,
        history=list(history),
        summary=RunSummary(epoch=epochs, update=10 * epochs, processes=1, device="cpu", peak_bytes=1, sent_bytes=0.0),
    )


def made_up_arm(name, scores, *, member=MEAN, control=None, control_of=(), flops=None, flops_note="", note="", recipe=None, **fields):
    """`scores`: by seed the metrics, or a list of them for seeds from 0 on, or of numbers, which are top1."""
    by_seed = scores if isinstance(scores, dict) else dict(enumerate(scores))
    rows = {seed: row if isinstance(row, dict) else {"top1": row} for seed, row in by_seed.items()}
    arm = Arm(
        name=name,
        recipe=recipe or tiny_recipe(),
        member=member,
        control=control,
        control_of=(control_of,) if isinstance(control_of, str) else control_of,
        note=note,
    )
    runs = {seed: made_up_run(name, seed, row, member=member, recipe=recipe, **fields) for seed, row in rows.items()}
    return ArmRuns(arm=arm, runs=runs, flops=flops, flops_note=flops_note, images=160)
