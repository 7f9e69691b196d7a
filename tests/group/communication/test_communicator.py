"""What one process does about collectives: it waits for those under way, and counts those it has come to.

What several processes get from each other is checked inside of them (tests/world_checks.py).
"""

import pytest
import torch
from torch import nn

from mutual.group.communication import communicator
from mutual.group.communication.communicator import AllToAllWork, Communicator, StopPoll


class Work:
    """A collective under way, which writes its result when it is waited for, as nccl's do."""

    def __init__(self, target, result):
        self.target, self.result, self.waits = target, result, 0

    def wait(self):
        self.waits += 1
        self.target.copy_(self.result)


def test_a_subgroup_neither_sends_nor_receives():
    """Its ranks would be taken for those of all processes."""
    subgroup = Communicator(rank=0, size=2, device=torch.device("cpu"), process_group=object())
    with pytest.raises(AssertionError, match="among all processes"):
        subgroup.send(b"weights", to=1)
    with pytest.raises(AssertionError, match="among all processes"):
        subgroup.receive(source=1)


def test_what_comes_in_is_waited_for():
    incoming = torch.zeros(3)
    work = Work(incoming, torch.arange(3.0))
    assert AllToAllWork(work, torch.zeros(1), incoming).wait().tolist() == [0, 1, 2]
    assert work.waits == 1


@pytest.fixture
def poll(monkeypatch):
    """A poll of two processes, and a list of what the other one wants at each call."""
    others, works, counted = [], [], []

    def all_reduce(flag, operation, group, async_op):
        assert (operation, group, async_op) == (communicator.dist.ReduceOp.MAX, "both", True)
        works.append(Work(flag, torch.maximum(flag, torch.tensor([int(others.pop(0))]))))
        return works[-1]

    monkeypatch.setattr(communicator.dist, "all_reduce", all_reduce)
    return StopPoll("both", lambda: counted.append(len(works))), others, works, counted


def test_a_poll_answers_with_the_next_call_and_waits_for_each_question_once(poll):
    ask, others, works, counted = poll
    others += [False, True, False, False]
    assert not ask(wanted=False)
    assert not ask(wanted=False)
    assert ask(wanted=False), "as the other wanted in the call before"
    assert not ask(wanted=True)
    assert ask.drain()
    assert not ask.drain(), "nothing has been asked since"
    assert [work.waits for work in works] == [1, 1, 1, 1]
    assert counted == [0, 1, 2, 3]


def test_a_poll_of_one_process_answers_at_once():
    ask = StopPoll(None, lambda: pytest.fail("there is no collective"))
    assert ask(wanted=True)
    assert not ask(wanted=False)
    assert not ask.drain()


def test_with_one_process_every_collective_is_the_identity():
    comm = Communicator(0, 1, torch.device("cpu"))
    tensor, norm = torch.arange(6.0).view(3, 2), nn.BatchNorm1d(2)
    assert comm.is_main
    assert comm.all_reduce_sum(tensor) is tensor
    assert comm.all_reduce_min(tensor) is tensor
    assert torch.equal(comm.all_gather(tensor), tensor[None])
    rows, first = comm.all_gather_rows([tensor, tensor[:, 0]], [3])
    assert rows[0] is tensor
    assert (len(rows), first) == (2, 0)
    assert comm.all_gather_bytes(b"x") == [b"x"]
    assert comm.all_gather_json({"a": [1.5, None]}) == [{"a": [1.5, None]}]
    assert comm.broadcast_bytes(b"x") == b"x"
    assert comm.broadcast_bytes(None) == b""
    assert comm.store("name") is None
    assert comm.wrap_ddp(norm) is norm
    comm.average_buffers([norm])
    comm.barrier()
    assert comm.stop_poll()(wanted=True)
    assert (comm.traffic.global_calls, comm.traffic.subgroup_calls, comm.traffic.gradient_bytes) == (0, 0, 0)


def test_a_barrier_waits_for_the_ranks_of_its_communicator(monkeypatch):
    waited = []
    monkeypatch.setattr(communicator.dist, "barrier", lambda *, group: waited.append(group))
    comm = Communicator(0, 2, torch.device("cpu"), process_group="both")
    comm.barrier()
    assert waited == ["both"]
    assert (comm.traffic.global_calls, comm.traffic.subgroup_calls) == (0, 1)
