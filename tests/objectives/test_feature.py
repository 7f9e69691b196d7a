"""Distances between outputs, with arguments other than their defaults."""

import torch
import torch.nn.functional as F

from mutual.objectives import build_loss


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_smooth_l1_is_quadratic_under_beta_and_linear_above():
    learner, source = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 5.0]])
    assert build_loss("smooth_l1", beta=2.0)(learner, source).item() == (1 / 4 + 4) / 2


def test_attention_transfer_takes_any_power_of_the_size_of_activations():
    learner, source = rand(2, 3, 4, 2), rand(2, 5, 4, 2, seed=1)
    maps = [F.normalize((each.abs() ** 3).mean(dim=1).flatten(1), dim=1) for each in (learner, source)]
    torch.testing.assert_close(build_loss("at", power=3.0)(learner, source), F.mse_loss(*maps))
