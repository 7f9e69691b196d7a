"""Run by torchrun in two processes with a GPU each: what a Communicator promises, over NCCL, and DDP with compiled peers."""

import torch
from accelerate import Accelerator
from compile_checks import gradients

from mutual.group import Communicator


def main():
    accelerator = Accelerator()
    comm = Communicator(accelerator.process_index, accelerator.num_processes, accelerator.device)
    assert (comm.size, comm.device.type) == (2, "cuda")
    local = torch.tensor([float(comm.rank), 10.0], device=comm.device)
    assert comm.all_reduce_sum(local).tolist() == [1.0, 20.0]
    assert comm.all_reduce_min(local).tolist() == [0.0, 10.0]
    assert comm.all_gather(local).tolist() == [[0.0, 10.0], [1.0, 10.0]]
    ragged = torch.full((2 - comm.rank, 3), float(comm.rank), device=comm.device)
    (rows,), first = comm.all_gather_rows([ragged])
    assert (rows[:, 0].tolist(), first) == ([0.0, 0.0, 1.0], 2 * comm.rank)
    assert comm.all_gather_bytes(b"ab" * comm.rank) == [b"", b"ab"]
    for source in (0, 1):
        assert comm.broadcast_bytes(b"from %d" % source if comm.rank == source else None, source=source) == b"from %d" % source
    counts = ([1, 2], [1, 3]) if comm.is_main else ([3, 1], [2, 1])
    for dtype in (torch.float32, torch.bfloat16):
        sent = torch.arange(sum(counts[0]), device=comm.device, dtype=dtype) + 10 * comm.rank
        assert comm.all_to_all(sent, *counts).wait().tolist() == ([0, 10, 11, 12] if comm.is_main else [1, 2, 13])
    given = [torch.full((2,), comm.rank + 0.5, device=comm.device), torch.tensor(7 + comm.rank, device=comm.device)]
    comm.broadcast_(given)
    assert [each.tolist() for each in given] == [[0.5, 0.5], 7]
    if comm.is_main:
        comm.send(b"a message", to=1)
    else:
        assert comm.receive(source=0) == b"a message"
    poll = comm.stop_poll()
    assert not poll(wanted=comm.rank == 1)
    assert poll(wanted=False)
    poll.drain()
    eager, compiled = (gradients(comm, compiled=each, sizes=[4, 3]) for each in (False, True))
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)
    comm.barrier()
    print("rank checks hold")  # noqa: T201
    accelerator.end_training()


if __name__ == "__main__":
    main()
