"""count_ops: what is a kernel, what is a host synchronisation, and who is named for it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mutual.engine.costs import count_ops

VALUES, MASK = torch.arange(4.0), torch.tensor([True, False, True, False])


def test_forward_backward_and_step_are_counted_and_views_are_not():
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, foreach=False)
    images, labels = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    with count_ops() as counts:
        nn.functional.cross_entropy(net(images.view(2, 6).view(4, 3)), labels).backward()
        optimizer.step()
        net.weight.detach().t()[0].unsqueeze(0)
        torch.empty(3)
    forward = {"addmm": 1, "_log_softmax": 1, "nll_loss_forward": 1}
    backward = {"ones_like": 1, "nll_loss_backward": 1, "_log_softmax_backward_data": 1, "mm": 1, "sum": 1}
    assert dict(counts.operators) == {**forward, **backward, "add_": 2}
    assert (counts.kernels, counts.host_syncs) == (10, [])


def test_operators_of_inference_are_those_that_they_are_made_of():
    with torch.inference_mode(), count_ops() as counts:
        nn.functional.linear(torch.rand(2, 3), torch.rand(4, 3), torch.rand(4))
    assert counts.operators["addmm"] == 1
    assert "linear" not in counts.operators


@pytest.mark.parametrize(
    ("operator", "run"),
    [
        ("_local_scalar_dense", lambda: VALUES[0].item()),
        ("_local_scalar_dense", lambda: float(VALUES[0])),
        ("_local_scalar_dense", lambda: bool(MASK[0])),
        ("nonzero", lambda: MASK.nonzero()),
        ("nonzero", lambda: torch.where(MASK)),
        ("index", lambda: VALUES[MASK]),
        ("index_put_", lambda: VALUES.clone().__setitem__(MASK, torch.ones(2))),
        ("masked_select", lambda: VALUES.masked_select(MASK)),
        ("_unique2", lambda: torch.unique(VALUES)),
        ("equal", lambda: torch.equal(VALUES, VALUES)),
        ("repeat_interleave", lambda: VALUES.repeat_interleave(MASK.long())),
        ("tolist", lambda: VALUES.tolist()),
        ("numpy", lambda: VALUES.numpy()),
        ("cpu", lambda: VALUES.cpu()),
        ("tensor", lambda: torch.tensor([1.0], device=VALUES.device)),
    ],
)
def test_a_host_synchronisation_is_told_with_its_operator_and_its_line(operator, run):
    with count_ops() as counts:
        run()
    assert operator in [sync.operator for sync in counts.host_syncs]
    line = run.__code__.co_firstlineno
    assert {sync.line for sync in counts.host_syncs} == {f"{Path(__file__)}:{line}"}


@pytest.mark.parametrize(
    "run",
    [
        lambda: VALUES[torch.tensor([0, 2])],
        lambda: VALUES.clone().__setitem__(MASK, 0.0),
        lambda: torch.where(MASK, VALUES, 0.0),
        lambda: VALUES.repeat_interleave(2),
        lambda: VALUES.repeat_interleave(MASK.long(), output_size=2),
        lambda: VALUES.to("cpu", torch.float64),
        lambda: torch.zeros(2, device=VALUES.device),
    ],
)
def test_what_needs_no_values_on_the_host_is_no_synchronisation(run):
    with count_ops() as counts:
        run()
    assert counts.host_syncs == []


def test_a_synchronisation_within_backward_is_told_with_the_line_that_started_it():
    class Reading(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * gradient[0].item()

    leaf = torch.ones(2, requires_grad=True)
    output = Reading.apply(leaf).sum()
    with count_ops() as counts:
        output.backward()
    assert [sync.operator for sync in counts.host_syncs] == ["_local_scalar_dense"]
    assert str(counts.host_syncs[0]).startswith(f"_local_scalar_dense at {Path(__file__)}:")


@pytest.mark.parametrize("foreach", [True, False])
def test_the_counter_of_steps_that_an_optimizer_reads_is_on_the_host(foreach):
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], foreach=foreach)
    weight.grad = torch.ones(3)
    with count_ops() as counts:
        optimizer.step()
        weight.sum().item()
    assert [sync.line.split(":")[0] for sync in counts.host_syncs] == [str(Path(__file__))]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda_launched_kernels_are_counted_and_synchronisations_told():
    device = torch.device("cuda")
    values = torch.arange(4.0, device=device)
    with count_ops(device) as counts:
        (values * 2).sum()
    assert counts.kernels == counts.launches >= 2
    assert counts.host_syncs == []
    with count_ops(device) as counts:
        values.sum().item()
        values.cpu()
        torch.tensor([1.0], device=device)
        torch.ones(1).item()
    assert len(counts.host_syncs) == 3, "what is on the host already needs no waiting"
    assert {sync.line.split(":")[0] for sync in counts.host_syncs} == {str(Path(__file__))}
