"""Whole runs on a GPU: repeated, resumed and with stores they are the same to the bit; `auto` and the benchmark leave no memory behind."""

import gc
import signal

import pytest
import torch
from gpu_support import document_of
from support import digests

import mutual
from mutual.engine import compare_costs
from mutual.recipe import parse_recipe

CE = {"loss": "cross_entropy"}
POOLED = [
    CE,
    {"loss": "dml"},
    *({"loss": name, "at": ["stem", "body"]} for name in ("at", "hint")),
    {"loss": "afd", "at": ["stem", "body"]},
]
PEERS = {name: {"model": "support:tiny", "args": {"norm": True, "dropout": 0.2, "width": width}} for name, width in (("a", 4), ("b", 6))}
TEACHER = {"model": "small_cnn", "frozen": True}


def run_document(folder, *, name="run", train=None, **sections):
    settings = {"deterministic": True, "epochs": 3, "ema": 0.9, **(train or {})}
    return {**document_of(**{"peers": PEERS, "objectives": POOLED, **sections}, train=settings), "name": name, "output": str(folder)}


class StopAfter(mutual.Callback):
    """Asks the run to stop behind an update, as a scheduler does."""

    def __init__(self, update):
        self._update = update

    def update(self, state):
        if state.update == self._update:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_deterministic_run_is_the_same_twice_and_resumed(tmp_path, precision):
    """To the bit, with the losses that pool, dropout, and the states of optimizers, scalers and generators."""
    document = run_document(tmp_path / "whole", train={"precision": precision})
    first = digests(mutual.fit(document).folder)
    second = digests(mutual.fit({**document, "output": str(tmp_path / "again")}).folder)
    assert second == first, "twice"
    cut = {**document, "output": str(tmp_path / "cut")}
    for stop in (3, 7):
        with pytest.raises(mutual.StoppedError):
            mutual.fit(cut, resume=stop > 3, callbacks=StopAfter(stop))
    assert digests(mutual.fit(cut, resume=True).folder) == first, "resumed"


def test_a_store_changes_nothing(tmp_path):
    """Filled, and then read by way of page-locked memory: the weights are those of the run that filled it."""
    peers = {"a": PEERS["a"], "t": {**TEACHER, "store": {"folder": str(tmp_path / "store")}}}
    objectives = [CE, {"loss": "kd", "sources": ["t"]}]
    found = [
        digests(mutual.fit(run_document(tmp_path, name=name, peers=peers, objectives=objectives)).folder) for name in ("filled", "read")
    ]
    assert found[0] == found[1]


@pytest.mark.cuda_only
def test_what_was_measured_is_freed():
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    compare_costs(
        [
            parse_recipe(
                document_of(peers={name: {"model": "torchvision/resnet18"} for name in "ab"}, data={"image_size": 32, "channels": 3})
            )
        ],
        rounds=2,
    )
    gc.collect()
    assert torch.cuda.memory_allocated() - before < 5e6, "of about 270 MB"
