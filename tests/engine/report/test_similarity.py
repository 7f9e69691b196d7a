"""Linear CKA without bias: its closed forms, and that minibatches need not hold the features."""

import math

import pytest
import torch

from mutual.engine.report.similarity import LinearCKA, hsic, pair_values


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def value(first, second, *, batch=64):
    cka = LinearCKA()
    for start in range(0, len(first), batch):
        cka.add({"a": first[start : start + batch], "b": second[start : start + batch]})
    return cka.value("a", "b")


def test_equal_features_are_one():
    assert value(features(64, 5), features(64, 5)) == pytest.approx(1)


def test_rotation_factor_and_offset_change_nothing():
    rotation, _ = torch.linalg.qr(features(6, 6, seed=1))
    first, second = features(128, 6, seed=2), features(128, 4, seed=3) + features(128, 6, seed=2)[:, :4]
    assert value(3 * first @ rotation + 7, second) == pytest.approx(value(first, second), rel=1e-4)
    assert value(first @ rotation, first) == pytest.approx(1)


def test_independent_features_are_about_zero_however_wide_they_are():
    """The estimate with bias would be 0.9 and more here."""
    assert abs(value(features(512, 900, seed=4), features(512, 900, seed=5))) < 0.02


def test_maps_are_flattened_and_shapes_need_not_be_equal():
    maps = features(32, 3, 4, 4)
    assert value(maps, maps.flatten(1)) == pytest.approx(1)
    assert -0.2 < value(maps, features(32, 2, seed=6)) < 0.2


def test_the_estimate_of_hsic_is_without_bias():
    """The mean over all orders of the second features is that of independence, 0."""
    first, second = features(5, 2).double(), features(5, 3, seed=1).double()
    grams = [each @ each.T for each in (first, second)]
    orders = torch.cartesian_prod(*[torch.arange(5)] * 5)
    orders = orders[(orders.sort(dim=1).values == torch.arange(5)).all(dim=1)]
    assert len(orders) == 120
    mean = sum(hsic(grams[0], grams[1][order][:, order]) for order in orders) / 120
    assert abs(mean) < 1e-10


def test_constant_features_and_too_few_images_say_nothing():
    assert math.isnan(value(torch.ones(8, 3), features(8, 3)))
    assert math.isnan(value(features(3, 3), features(3, 3)))
    cka = LinearCKA()
    cka.add({("a", "x"): features(8, 3), ("b", "y"): torch.ones(8, 3), ("b", "z"): features(8, 3)})
    assert pair_values(cka, {"a": ["x"], "b": ["y", "z"]}, "a", "b") == {("x", "z"): pytest.approx(1)}
