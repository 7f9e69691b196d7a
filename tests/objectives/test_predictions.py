"""Predictions: what is computed once for all that read it."""

import pytest
import torch

from mutual.objectives import Predictions


@pytest.fixture
def predictions():
    return Predictions(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_probabilities_at_a_temperature(predictions, temperature):
    expected = (predictions.logits / temperature).softmax(dim=-1)
    torch.testing.assert_close(predictions.probs(temperature), expected)
    torch.testing.assert_close(predictions.log_probs(temperature), expected.log())


def test_each_temperature_is_computed_once(predictions):
    assert predictions.log_probs(2.0) is predictions.log_probs(2.0)
    assert predictions.probs(2.0) is predictions.probs(2.0)
    assert predictions.probs(2.0) is not predictions.probs(1.0)


def test_derived_predictions_select_what_was_computed(predictions):
    selected = []
    swapped = predictions.derived(lambda values: selected.append(values) or values[[2, 0]])
    torch.testing.assert_close(swapped.probs(2.0), (predictions.logits[[2, 0]] / 2).softmax(dim=-1))
    swapped.log_probs(2.0)
    assert selected[0] is predictions.logits
    assert selected[1] is predictions.probs(2.0)
    assert selected[2] is predictions.log_probs(2.0)


def test_negative_log_likelihoods_of_indices_and_of_probabilities(predictions):
    labels = torch.tensor([0, 4, 2, 2])
    expected = torch.nn.functional.cross_entropy(predictions.logits.flatten(0, 1), labels.repeat(3), reduction="none").view(3, 4)
    torch.testing.assert_close(predictions.nll(labels), expected)
    torch.testing.assert_close(predictions.nll(torch.nn.functional.one_hot(labels, 5).double()), expected)
