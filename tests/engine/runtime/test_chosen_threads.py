"""A process uses the cores that it may use, unless its user, and not only a launcher, chose a number of threads."""

import os
import warnings
from types import SimpleNamespace

import psutil
import pytest
import torch

from mutual.engine.runtime import LaunchSettings, resolve_launch, torch_threads
from mutual.engine.runtime import chosen_threads as module
from mutual.group import Communicator
from mutual.recipe import parse_recipe

RECIPE = parse_recipe({"name": "n", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "cross_entropy"}]})
WORLD = Communicator(0, 1, torch.device("cpu"))


LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("variables", "launcher", "words", "threads"),
    [
        ({"OMP_NUM_THREADS": "1"}, {}, [], 1),  # without a launcher
        (LAUNCHED, {}, ["accelerate", "launch", "-m", "mutual.train"], None),
        ({"TORCHELASTIC_RUN_ID": "none", "OMP_NUM_THREADS": "1"}, {}, ["torchrun"], None),
        (LAUNCHED, {"OMP_NUM_THREADS": "1"}, ["accelerate", "launch"], 1),
        (LAUNCHED, {}, ["accelerate", "launch", "--num_cpu_threads_per_process", "1"], 1),
        (LAUNCHED, {}, ["accelerate", "launch", "--num-cpu-threads-per-process=1"], 1),
        (LAUNCHED, None, [], None),  # it cannot be read
    ],
)
def test_what_the_user_chose_is_told_from_what_a_launcher_sets(monkeypatch, variables, launcher, words, threads):
    def environ():
        if launcher is None:
            raise psutil.AccessDenied
        return launcher

    between = SimpleNamespace(environ=lambda: dict(LAUNCHED, **(launcher or {})), cmdline=lambda: ["sh"])  # a script that is launched
    ancestors = [between, SimpleNamespace(environ=environ, cmdline=lambda: words)]
    monkeypatch.setattr(module.psutil, "Process", lambda: SimpleNamespace(parents=lambda: ancestors))
    for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with torch_threads(1):
        assert module.chosen_threads() == threads


def test_threads_that_were_set_in_python_are_the_users_choice(monkeypatch):
    monkeypatch.setattr(module, "_is_chosen", lambda threads: False)
    monkeypatch.setattr(module, "available_cores", lambda: 8)
    with torch_threads(3):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert module.chosen_threads() == 3
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert module.chosen_threads() == 3


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("chosen", "said", "saved", "warns"),
    [
        (None, {}, None, True),
        (8, {}, None, False),
        (None, {"threads": 2}, None, False),
        (None, {"tune": True}, None, False),
        (None, {}, 2, False),
    ],
)
def test_a_machine_that_others_use_is_warned_of_where_nobody_chose_threads(monkeypatch, chosen, said, saved, warns):
    recipe = RECIPE.model_copy(update={"train": RECIPE.train.model_copy(update=said)})
    begun = None if saved is None else RECIPE.model_copy(update={"train": RECIPE.train.model_copy(update={"threads": saved})})
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.available_cores", lambda: 8)
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.chosen_threads", lambda: chosen)
    monkeypatch.setattr(os, "getloadavg", lambda: (1e6, 0.0, 0.0))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        launch = LaunchSettings.of(recipe, WORLD)
        assert resolve_launch(recipe, begun, launch).train.threads == (said.get("threads") or saved or 8)
    assert any("give train.threads=1" in str(warning.message) for warning in told) == warns


@pytest.mark.parametrize(("chosen", "processes", "threads"), [(None, 1, 8), (None, 3, 2), (None, 9, 1), (5, 3, 5)])
def test_processes_share_the_cores_that_nobody_divided(monkeypatch, chosen, processes, threads):
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.available_cores", lambda: 8)
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.chosen_threads", lambda: chosen)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert LaunchSettings.of(RECIPE, WORLD).threads == threads


def test_beside_a_gpu_threads_stay_what_the_process_has(monkeypatch):
    monkeypatch.setattr("mutual.engine.runtime.launch_settings.chosen_threads", lambda: None)
    with torch_threads(3):
        assert LaunchSettings.of(RECIPE, Communicator(0, 1, torch.device("cuda"))).threads == 3
