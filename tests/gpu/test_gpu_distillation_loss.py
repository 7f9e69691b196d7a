"""DistillationLoss on a GPU: the CPU's losses and gradients, adapters beside their learner, and generators left as they are."""

import pytest
import torch

import mutual

OBJECTIVES = [
    {"loss": "cross_entropy"},
    {"loss": "kd", "temperature": 4.0},
    {"loss": "dml", "sources": ["ensemble"], "ensemble": {"weighting": "linear"}},
    {"loss": "hint", "at": "body"},
    {"loss": "rkd_distance", "at": "body"},
]


def outputs_on(device):
    draw = torch.Generator().manual_seed(0)
    names = ("student", "teacher", "other")
    outputs = {name: {"logits": torch.randn(6, 4, generator=draw), "body": torch.randn(6, 3, 5, 5, generator=draw)} for name in names}
    return {name: {path: each.to(device).requires_grad_() for path, each in some.items()} for name, some in outputs.items()}


def criterion_on(device, objectives):
    outputs = outputs_on(device)
    return mutual.DistillationLoss(objectives, learners={"student": outputs.pop("student")}, sources=outputs)


def results(device):
    criterion, outputs = criterion_on(device, OBJECTIVES), outputs_on(device)
    losses = criterion(outputs, torch.arange(6, device=device) % 4)
    leaves = [*outputs["student"].values(), *criterion.parameters()]
    return [*losses.values(), *torch.autograd.grad(sum(losses.values()), leaves)]


def test_it_gives_the_cpus_losses_and_gradients(device):
    for found, expected in zip(results(device), results(torch.device("cpu")), strict=True):
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu(), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_in_float32_under_autocast(dtype, device):
    criterion, outputs = criterion_on(device, OBJECTIVES), outputs_on(device)
    with torch.autocast(device.type, dtype=dtype):
        losses = criterion(outputs, torch.arange(6, device=device) % 4)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_a_stochastic_loss_leaves_the_devices_generator_alone(device):
    criterion, outputs = criterion_on(device, [{"loss": "mgd", "at": "body"}]), outputs_on(device)
    torch.manual_seed(3)
    expected = torch.rand(4, device=device)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    criterion(outputs)
    torch.set_rng_state(state)  # the CPU's has given the seed
    assert torch.rand(4, device=device).equal(expected)
