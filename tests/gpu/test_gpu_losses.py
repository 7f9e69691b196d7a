"""Every loss on a GPU: the CPU's value and gradients, no host synchronisation, and a deterministic backward where that is asked for."""

import pytest
import torch
from gpu_support import no_host_sync
from test_losses import example, mapped

from mutual.objectives import LOSSES


def tensors_of(output):
    return output if isinstance(output, list) else [output]


def on(device, name, dtype=torch.float64):
    """A loss at work on a device: `(loss, learner, source, labels)`, the learner's outputs leaves with gradients."""
    loss, learner, source, labels = example(name, dtype)
    learner = mapped(lambda each: each.detach().to(device).requires_grad_(), learner)
    source = mapped(lambda each: each.detach().to(device), source)
    return loss.to(device), learner, source, labels.to(device)


def gradients(loss, learner, source, labels):
    """The loss and its gradients, in the learner's outputs and in the parameters."""
    torch.manual_seed(0)  # of the device, too
    value = loss(learner, source, labels)
    value = value.sum()
    leaves = [*tensors_of(learner), *(parameter for parameter in loss.parameters() if parameter.requires_grad)]
    return value.detach(), torch.autograd.grad(value, leaves, allow_unused=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_has_the_cpus_value_and_gradients(name, dtype, device):
    if LOSSES[name].is_stochastic:
        pytest.skip("it draws, and devices draw different numbers")
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-4}[dtype]
    found, expected = (gradients(*on(where, name, dtype)) for where in (device, torch.device("cpu")))
    torch.testing.assert_close(found[0].cpu(), expected[0], rtol=tolerance, atol=tolerance)
    for one, other in zip(found[1], expected[1], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one.cpu(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_does_not_wait_for_the_gpu(name, dtype, device):
    parts = on(device, name, dtype)
    gradients(*parts)  # libraries begin with synchronisations of their own
    with no_host_sync(device):
        loss, learner, source, labels = parts
        value = loss(learner, source, labels).sum()
        value.backward()
    assert torch.isfinite(value)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_is_deterministic_where_that_is_asked_for(name, device):
    """No kernel of its forward or backward is one that torch knows to be random in its last digits, and twice is the same."""
    torch.use_deterministic_algorithms(True)
    parts = on(device, name, torch.float32)
    (first, first_gradients), (second, second_gradients) = (gradients(*parts) for _ in range(2))
    assert torch.equal(first, second)
    for one, other in zip(first_gradients, second_gradients, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_computes_in_float32_whatever_it_is_given(name, dtype, device):
    loss, learner, source, labels = on(device, name, dtype)
    torch.manual_seed(0)
    value = loss(learner, source, labels).sum()
    wide = [mapped(lambda each: each.detach().float(), output) for output in (learner, source)]
    torch.manual_seed(0)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*wide, labels).sum(), rtol=1e-5, atol=1e-5)
