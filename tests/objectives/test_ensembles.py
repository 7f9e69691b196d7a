"""KDCL's ensembles of logits: what each weighting promises."""

import pytest
import torch
import torch.nn.functional as F

from mutual.objectives import ENSEMBLES

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.fixture
def logits():
    return 3 * torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_naive_takes_the_best_peer_of_each_image(logits):
    chosen = F.cross_entropy(ENSEMBLES["naive"](logits, LABELS), LABELS, reduction="none")
    each = torch.stack([F.cross_entropy(peer, LABELS, reduction="none") for peer in logits])
    torch.testing.assert_close(chosen, each.amin(dim=0))


def test_linear_finds_the_best_convex_combination(logits):
    found = F.cross_entropy(ENSEMBLES["linear"](logits, LABELS), LABELS)
    steps = torch.linspace(0, 1, 51, dtype=torch.float64)
    grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1]
    best = min(F.cross_entropy(sum(w * peer for w, peer in zip(weights, logits, strict=True)), LABELS) for weights in grid)
    assert found <= best + 1e-3
    assert found <= min(F.cross_entropy(peer, LABELS) for peer in logits) + 1e-6


def test_linears_search_takes_the_steps_it_took():
    """Golden, where it does not quite converge: other steps, or the last point for the best, change what a recipe trains with."""
    logits = 3 * torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weights = torch.linalg.lstsq(logits.flatten(1).T, ENSEMBLES["linear"](logits, LABELS).flatten()[:, None]).solution[:, 0]
    torch.testing.assert_close(weights, torch.tensor([0.2378370727, 0.3872896028, 0.3748733245], dtype=torch.float64), rtol=0, atol=1e-6)


def test_min_logit_is_at_least_as_sure_as_every_peer(logits):
    combined = F.cross_entropy(ENSEMBLES["min_logit"](logits, LABELS), LABELS, reduction="none")
    each = torch.stack([F.cross_entropy(peer, LABELS, reduction="none") for peer in logits])
    assert (combined <= each.amin(dim=0) + 1e-12).all()


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_of_copies_is_the_peer(name, logits):
    copies = logits[:1].expand(3, -1, -1)
    torch.testing.assert_close(F.softmax(ENSEMBLES[name](copies, LABELS), dim=1), F.softmax(logits[0], dim=1))
    if name != "mean":
        torch.testing.assert_close(ENSEMBLES[name](logits, LABELS), ENSEMBLES[name](logits, F.one_hot(LABELS, 5).double()))
