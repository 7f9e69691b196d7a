"""How processes of a launch find each other and part, as far as one process shows it; and several tensors as one vector."""

import os
import socket
from datetime import timedelta

import pytest
import torch
from torch import nn

from mutual.group.communication import launch
from mutual.group.communication.tensors import flatten, float_buffers, unflatten_


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_without_a_place_to_meet_there_is_no_store(monkeypatch, missing):
    monkeypatch.setattr(launch.dist, "TCPStore", lambda *_, **__: pytest.fail("it does not know where"))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.delenv(missing)
    assert launch.launch_store("x", timeout=1) is None


def test_a_store_that_cannot_be_reached_is_none(monkeypatch):
    def unreachable(host, port, *, is_master, timeout):
        assert (host, port, is_master, timeout) == ("127.0.0.1", 1234, False, timedelta(seconds=3))
        raise RuntimeError("timed out")

    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1234")
    monkeypatch.setattr(launch.dist, "TCPStore", unreachable)
    assert launch.launch_store("x", timeout=3) is None


def test_a_process_that_keeps_the_store_is_reached_until_it_lets_go(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    kept = launch.keep_launch_store(timeout=5)
    store = launch.launch_store("x", timeout=5)
    store.set("key", "value")
    assert launch.launch_store("x", timeout=5).get("key") == b"value"
    assert kept is not None


@pytest.mark.parametrize("variables", [{}, {"MASTER_ADDR": "127.0.0.1"}, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "none"}])
def test_no_store_is_kept_where_the_launch_has_no_place_for_one(monkeypatch, variables):
    monkeypatch.setattr(os, "environ", variables)
    assert launch.keep_launch_store(timeout=1) is None


@pytest.mark.parametrize(("value", "has"), [("True", True), ("False", False), (None, False)])
def test_torchrun_says_whether_it_keeps_the_store(monkeypatch, value, has):
    monkeypatch.setattr(os, "environ", {} if value is None else {"TORCHELASTIC_USE_AGENT_STORE": value})
    assert launch.has_agent_store() is has


def test_the_version_of_nccl_is_known_where_torch_has_it(monkeypatch):
    monkeypatch.setattr(launch.torch.cuda.nccl, "version", lambda: (2, 27, 3))
    monkeypatch.setattr(launch.dist, "is_nccl_available", lambda: True)
    assert launch.nccl_version() == "2.27.3"
    monkeypatch.setattr(launch.dist, "is_nccl_available", lambda: False)
    assert launch.nccl_version() is None


def test_a_job_needs_the_launchers_store(monkeypatch):
    joined = []
    monkeypatch.setattr(launch, "launch_store", lambda name, timeout: f"store of {name}")
    monkeypatch.setattr(launch.dist, "init_process_group", lambda *args, **kwargs: joined.append(kwargs))
    monkeypatch.setattr(os, "environ", {"RANK": "3", "WORLD_SIZE": "4"})
    with pytest.raises(ValueError, match="several jobs in one launch need torchrun"):
        launch.init_job_process_group("a", rank=1, size=2, timeout=5)
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    launch.init_job_process_group("a", rank=1, size=2, timeout=5)
    assert joined == [{"store": "store of a", "rank": 1, "world_size": 2, "timeout": timedelta(seconds=5)}]
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ[launch.JOB]) == ("1", "2", "a")
    monkeypatch.setattr(launch, "launch_store", lambda name, timeout: None)
    with pytest.raises(ValueError, match="several jobs"):
        launch.init_job_process_group("a", rank=1, size=2, timeout=5)


@pytest.mark.parametrize("joined", [False, True])
def test_who_has_joined_others_waits_for_them_and_leaves(monkeypatch, joined):
    called = []
    monkeypatch.setattr(launch.dist, "is_initialized", lambda: joined)
    monkeypatch.setattr(launch.dist, "barrier", lambda: called.append("barrier"))
    monkeypatch.setattr(launch.dist, "destroy_process_group", lambda: called.append("destroy"))
    assert launch.wait_for_all() is joined
    launch.shutdown()
    assert called == (["barrier", "barrier", "destroy"] if joined else [])


def test_what_a_lost_connection_raises_is_known():
    known = [launch.dist.DistBackendError("x"), RuntimeError("[gloo] Connection reset by peer"), RuntimeError("NCCL: timed out")]
    others = [RuntimeError("shapes differ"), ValueError("gloo"), OSError("connection closed")]
    assert [launch.lost_connection(error) for error in (*known, *others)] == [True] * 3 + [False] * 3


def test_tensors_are_one_vector_and_are_written_back():
    norm = nn.BatchNorm1d(2)
    weights = [nn.Parameter(torch.arange(4.0).view(2, 2)), *float_buffers([norm])]
    vector = flatten(weights)
    assert vector.tolist() == [0, 1, 2, 3, 0, 0, 1, 1]
    assert not vector.requires_grad
    unflatten_(weights, vector + 1)
    assert weights[0].tolist() == [[1, 2], [3, 4]]
    assert (weights[0].is_leaf, norm.running_var.tolist(), norm.num_batches_tracked.item()) == (True, [2, 2], 0)


@pytest.mark.parametrize("port", ["99999999", "-1", "x"])
@pytest.mark.parametrize("function", [lambda: launch.launch_store("x", timeout=0.1), lambda: launch.keep_launch_store(timeout=0.1)])
def test_a_port_that_is_none_leads_to_no_store(monkeypatch, port, function):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", port)
    assert function() is None
