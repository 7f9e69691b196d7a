"""The temperature that calibrates, and reliability, against closed forms and a general minimiser."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from mutual.engine.evaluation import fit_temperature, reliability
from mutual.engine.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE


def sampled(temperature, num_images=4000):
    """Logits, and classes drawn from their softmax at a temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(num_images, 7, generator=generator)
    return logits, torch.multinomial(F.softmax(logits / temperature, dim=1), 1, generator=generator).flatten()


def test_the_temperature_that_labels_were_drawn_at_is_found():
    for temperature in (0.5, 1.0, 4.0):
        assert fit_temperature(*sampled(temperature)) == pytest.approx(temperature, rel=0.05)


def test_the_nll_is_least_there():
    logits, labels = sampled(2.5, num_images=200)
    found = fit_temperature(logits, labels)

    def nll(temperature):
        return F.cross_entropy(logits.double() / temperature, labels).item()

    minimum = minimize_scalar(nll, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-10})
    assert found == pytest.approx(minimum.x, rel=1e-5)
    assert nll(found) <= minimum.fun + 1e-13


def test_flags_of_several_labels_have_a_closed_form():
    flags = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 0.0]])  # the first label is present in three of four; logits +-2
    logits = torch.tensor([[2.0, -50.0]] * 4)
    assert fit_temperature(logits[:, :1], flags[:, :1]) == pytest.approx(2 / math.log(3))
    assert 1 < fit_temperature(logits, flags) < MAX_TEMPERATURE


def test_bounds_hold_where_the_nll_has_no_least_value():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == MIN_TEMPERATURE, "always right"
    assert fit_temperature(logits, torch.tensor([1, 0])) == MAX_TEMPERATURE, "always wrong"
    assert fit_temperature(torch.zeros(2, 2), torch.tensor([1, 0])) == MAX_TEMPERATURE, "without an opinion"
    assert fit_temperature(1e4 * logits, torch.tensor([1, 1])) == MAX_TEMPERATURE


@pytest.mark.parametrize("logits", [torch.empty(0, 3), torch.full((1, 3), math.inf)])
def test_what_no_temperature_fits_is_refused(logits):
    with pytest.raises(ValueError, match="a temperature is fitted to"):
        fit_temperature(logits, torch.zeros(len(logits), dtype=torch.long))


def test_reliability_counts_each_prediction_in_its_bin():
    probabilities = torch.tensor([[0.05, 0.95], [0.5, 0.5], [0.0, 1.0], [0.62, 0.38], [math.nan, math.nan]])
    found = reliability(probabilities, torch.tensor([1, 0, 0, 0, 0]), num_bins=10)
    assert found.counts_K.tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 2], "a bound belongs to the bin above, 1 to the last"
    assert found.hits_K.tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 1]
    assert found.confidence_sums_K[-1].item() == pytest.approx(1.95)
    assert found.ece == pytest.approx((0.5 + 0.38 + 0.95) / 4)
    assert found.mean_confidences[6].item() == pytest.approx(0.62)
    assert found.accuracies[-1] == 0.5
    assert found.accuracies[0].isnan()


def test_images_that_are_not_counted_are_left_out():
    logits, labels = sampled(1.0, num_images=50)
    is_counted = torch.arange(50) % 3 > 0
    for probabilities, wanted in ((F.softmax(logits, dim=1), labels), (logits.sigmoid(), F.one_hot(labels, 7).float())):
        some = reliability(probabilities, wanted, is_counted=is_counted)
        expected = reliability(probabilities[is_counted], wanted[is_counted])
        for name in ("counts_K", "hits_K", "confidence_sums_K"):
            torch.testing.assert_close(getattr(some, name), getattr(expected, name))


def test_of_several_labels_each_is_a_prediction():
    found = reliability(torch.tensor([[0.1, 0.9], [0.2, 0.7]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), num_bins=2)
    assert found.counts_K.tolist() == [2, 2]
    assert found.hits_K.tolist() == [1, 1]
    assert found.confidence_sums_K.tolist() == pytest.approx([0.3, 1.6])
