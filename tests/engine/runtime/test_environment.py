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


@pytest.mark.parametrize(
    ("tf32", "products", "convolutions"), [(True, True, True), (False, False, False), ("convolutions", False, True), (None, False, True)]
)
def test_tf32_is_what_the_recipe_says_and_afterwards_what_it_was(tf32, products, convolutions):
    train = {} if tf32 is None else {"tf32": tf32}
    before = tf32_switches()
    with restore_switches():
        init_environment(parse_recipe(tiny_document(train=train)))
        assert tf32_switches() == (products, convolutions)
    assert tf32_switches() == before


def test_tf32_that_the_user_has_set_comes_back_under_every_name():
    names = [(torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")]
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        names += [(torch.backends.cuda.matmul, "fp32_precision"), (torch.backends.cudnn.conv, "fp32_precision")]
    with restore_switches():
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = True, False
        before = [getattr(*name) for name in names]
        with restore_switches():
            init_environment(parse_recipe(tiny_document(train={"tf32": "convolutions"})))
            assert [getattr(*name) for name in names] != before
        assert [getattr(*name) for name in names] == before


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has one name of each switch")
def test_a_user_of_torchs_newer_names_can_fit_and_finds_them_as_they_were():
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    with restore_switches():
        products.fp32_precision, convolutions.fp32_precision = "tf32", "ieee"
        with restore_switches():
            init_environment(parse_recipe(tiny_document(train={"tf32": False})))
            assert tf32_switches() == (False, False), "nor does torch raise as two names disagree"
        assert (products.fp32_precision, convolutions.fp32_precision) == ("tf32", "ieee")


def tf32_switches():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("wanted", [False, True])
def test_cudnn_times_its_kernels_if_the_recipe_says_so(monkeypatch, wanted):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not wanted)
    with restore_switches():
        init_environment(parse_recipe(tiny_document(train={"cudnn_benchmark": wanted})))
        assert torch.backends.cudnn.benchmark is wanted
    assert torch.backends.cudnn.benchmark is not wanted


def test_the_fastest_kernel_and_deterministic_ones_exclude_each_other():
    with pytest.raises(RecipeError, match=r"train\.cudnn_benchmark: takes whichever kernel is the fastest"):
        parse_recipe(tiny_document(train={"cudnn_benchmark": True, "deterministic": True}))


def test_the_switches_are_in_the_resolved_recipe():
    resolved = parse_recipe(tiny_document(train={"tf32": True})).resolved().train
    assert (resolved.tf32, resolved.cudnn_benchmark) == (True, False)


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
