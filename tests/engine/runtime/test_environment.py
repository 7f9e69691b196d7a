"""What a fit sets in its process, and leaves there."""

import os
from datetime import timedelta

import pytest
import torch
from support import tiny_document

import mutual
from mutual.engine.runtime.environment import init_environment, restore_switches
from mutual.recipe import InputError, RecipeError, parse_recipe

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.mark.parametrize("before", [False, True])
def test_deterministic_kernels_end_with_the_fit_that_asked_for_them(tmp_path, monkeypatch, before):
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    within = []
    monkeypatch.setattr(
        "mutual.engine.training.trainer.Trainer.run", lambda _: within.append((deterministic(), os.environ.get(WORKSPACE))) or 1 / 0
    )
    torch.use_deterministic_algorithms(before)
    try:
        document = tiny_document(output=str(tmp_path), train={"deterministic": True, "epochs": 1, "progress": False})
        with pytest.raises(ZeroDivisionError):
            mutual.fit(parse_recipe(document))
        assert within == [((True, False), ":4096:8")]
        assert deterministic() == (before, True)
        assert WORKSPACE not in os.environ
    finally:
        torch.use_deterministic_algorithms(False)


def deterministic():
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark


def test_what_the_user_has_set_stays():
    with restore_switches():
        torch.use_deterministic_algorithms(True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_timeout_of_collectives_comes_from_the_recipe():
    assert init_environment(parse_recipe(tiny_document())).comm.timeout == timedelta(seconds=1800), "torch's own"
    assert init_environment(parse_recipe(tiny_document(train={"timeout_seconds": 90}))).comm.timeout == timedelta(seconds=90)
    for wrong in (0, 1e300):
        with pytest.raises(RecipeError, match=r"train\.timeout_seconds"):
            parse_recipe(tiny_document(train={"timeout_seconds": wrong}))


def test_a_rank_beyond_the_launch_is_refused_before_it_waits(monkeypatch):
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="RANK=5 and WORLD_SIZE=2, and ranks count from 0"):
        init_environment(parse_recipe(tiny_document()))
