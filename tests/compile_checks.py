"""Run by torchrun in two processes: a compiled peer under DDP."""

import torch
import torch._dynamo
from accelerate import Accelerator
from torch import nn

from mutual.group import Communicator, Peer, PeerInput, TappedModel
from mutual.group.build import compilation
from mutual.models import ModelInput

WIDTH = 600  # a layer of 1.44 MB: the first bucket is full with 1 MB
INPUT = PeerInput(ModelInput((1, WIDTH), (0.0,), (1.0,), channels=1), is_identity=True)
graphs = []


def backend(graph, inputs):
    from torch._dynamo.backends.debugging import aot_eager

    graphs.append(len(inputs))
    return aot_eager(graph, inputs)


def gradients(comm, *, compiled, sizes):
    """What two updates' backwards leave in the parameters of a peer, the second of another number of images."""
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())), nn.Linear(WIDTH, 3))
    peer = Peer("a", TappedModel(model, ["2"]), frozen=False, input=INPUT)
    if compiled:
        compilation.compile_peer(peer)
    peer.tapped.to(comm.device)
    peer.distribute(comm)
    torch.manual_seed(comm.rank)
    found = []
    for size in sizes:
        with comm.no_sync([peer.train_module]):
            peer.train_module(torch.randn(size, WIDTH, device=comm.device))["logits"].square().mean().backward()
        outputs = peer.train_module(torch.randn(size, WIDTH, device=comm.device))
        (outputs["logits"].square().mean() + outputs["2"].mean()).backward()
        found.append([parameter.grad.clone() for parameter in peer.parameters()])
        for parameter in peer.parameters():
            parameter.grad = None
    return found


def main():
    accelerator = Accelerator(cpu=True)
    comm = Communicator(accelerator.process_index, accelerator.num_processes, accelerator.device)
    assert comm.size == 2
    compilation.BACKEND = backend
    eager = gradients(comm, compiled=False, sizes=[4, 3])
    assert not graphs
    bytes_before = comm.traffic.gradient_bytes
    compiled = gradients(comm, compiled=True, sizes=[4, 3])
    assert comm.traffic.gradient_bytes == bytes_before + 2 * sum(gradient.nbytes for gradient in eager[0])
    torch.testing.assert_close(compiled, eager, rtol=1e-6, atol=1e-7)
    mean = [comm.all_reduce_sum(gradient) / 2 for gradient in compiled[-1]]
    torch.testing.assert_close(mean, compiled[-1], msg="both ranks have the mean")
    assert len(graphs) == 2 * 2, f"for each number of images one at the end of each bucket (1 MB, 25 MB): {graphs}"
    alone = Communicator(0, 1, comm.device)
    graphs.clear()
    torch._dynamo.reset()  # the layers are equal, and so would be the graphs
    gradients(alone, compiled=True, sizes=[4])
    assert len(graphs) == 1, "without DDP the graph is whole"
    print("compile checks hold")  # noqa: T201
    accelerator.end_training()


if __name__ == "__main__":
    main()
