"""The interval, the sign-flip test and Holm's correction, each against a closed form or another's numbers."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual.engine.comparison.statistics import (
    holm,
    mean_and_std,
    seeds_needed,
    sign_flip_p,
    smallest_p,
    t_interval,
)

counts = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=8)
"""Hits among 64 images: fractions of them are exact, so that ties are ties."""


def brute_force(pairs):
    """The two-sided p over all changes of signs, in whole numbers."""
    differences = [first - second for first, second in pairs]
    sums = [sum(sign * each for sign, each in zip(signs, differences, strict=True)) for signs in product((1, -1), repeat=len(pairs))]
    return Fraction(sum(abs(each) >= abs(sum(differences)) for each in sums), len(sums))


@given(counts)
@settings(deadline=None)
def test_p_is_the_fraction_of_all_sign_changes(pairs):
    scores = [[count / 64 for count in arm] for arm in zip(*pairs, strict=True)]
    assert sign_flip_p(*scores) == float(brute_force(pairs))


@given(counts, st.integers(3, 997))
@settings(deadline=None)
def test_ties_are_ties_where_scores_were_rounded_to_float32(pairs, num_images):
    scores = [[float(np.float32(count) / np.float32(num_images)) for count in arm] for arm in zip(*pairs, strict=True)]
    assert sign_flip_p(*scores) == float(brute_force(pairs))


@pytest.mark.parametrize("num_pairs", [2, 6, 9])
def test_p_is_scipys(num_pairs):
    first, second = np.random.default_rng(num_pairs).normal(size=(2, num_pairs))

    def statistic(values, axis):
        return values.mean(axis=axis)

    found = scipy.stats.permutation_test((first - second,), statistic, permutation_type="samples", n_resamples=np.inf, vectorized=True)
    assert sign_flip_p(list(first), list(second)) == pytest.approx(found.pvalue, abs=1e-12)


def test_p_of_a_published_example():
    """Darwin's maize, 15 pairs, in eighths of an inch: Fisher (The Design of Experiments, 1935, section 21) counts 1,726 of 32,768."""
    differences = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sign_flip_p([float(each) for each in differences], [0.0] * 15) == 1726 / 32768


def test_all_differences_of_one_sign_give_the_smallest_p():
    for num_pairs in range(1, 12):
        p = sign_flip_p([1.0 + seed for seed in range(num_pairs)], [0.0] * num_pairs)
        assert p == smallest_p(num_pairs) == 2 / 2**num_pairs
    assert smallest_p(5) == 0.0625
    assert smallest_p(6) == 0.03125


def test_many_pairs_are_drawn_and_always_the_same_ones():
    values = list(np.random.default_rng(0).normal(0.4, 1, size=18))
    zeros = [0.0] * 18
    signs = 1 - 2 * (np.arange(2**18)[:, None] >> np.arange(18) & 1)
    exact = np.mean(np.abs(signs @ np.array(values)) >= abs(sum(values)) - 1e-12)
    assert sign_flip_p(values, zeros) == sign_flip_p(values, zeros) == pytest.approx(exact, abs=0.008)
    assert sign_flip_p([1.0] * 40, [0.0] * 40) == smallest_p(40) == 1 / 65537


def test_equal_arms_give_p_1_and_no_width():
    assert sign_flip_p([0.5, 0.7], [0.5, 0.7]) == 1
    assert t_interval([0.0, 0.0]) == (0, 0)


def test_too_few_values():
    assert sign_flip_p([], []) is None
    assert sign_flip_p([0.5], [0.25]) == 1
    assert t_interval([0.5]) is t_interval([]) is None
    assert mean_and_std([]) == (None, None)
    assert mean_and_std([0.5]) == (0.5, None)


finite = st.floats(-1, 1)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=8), st.randoms())
@settings(deadline=None)
def test_swapped_arms_change_the_sign_and_the_order_of_seeds_nothing(pairs, random):
    first, second = (list(arm) for arm in zip(*pairs, strict=True))
    differences = [x - y for x, y in pairs]
    low, high = t_interval(differences)
    assert t_interval([-each for each in differences]) == pytest.approx((-high, -low))
    assert sign_flip_p(first, second) == sign_flip_p(second, first)
    random.shuffle(pairs)
    shuffled = [list(arm) for arm in zip(*pairs, strict=True)]
    assert sign_flip_p(*shuffled) == sign_flip_p(first, second)
    assert t_interval([x - y for x, y in pairs]) == pytest.approx((low, high))


def test_interval_is_scipys_and_students():
    """Student's own data (Biometrika 6, 1908): additional hours of sleep; n 10, mean 1.58, s 1.23, interval 0.70 to 2.46."""
    hours = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    low, high = t_interval(hours)
    assert (low, high) == pytest.approx((0.70, 2.46), abs=0.005)
    expected = scipy.stats.ttest_1samp(hours, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("num_pairs", [3, 6])
def test_interval_covers_the_true_difference_in_95_of_100_cases(num_pairs):
    num_draws = 2_000
    draws = np.random.default_rng(num_pairs).normal(0.3, 2.0, size=(num_draws, num_pairs))
    covered = sum(low <= 0.3 <= high for low, high in (t_interval(list(row)) for row in draws))
    low, high = scipy.stats.binom.interval(0.999, num_draws, 0.95)
    assert low <= covered <= high


def test_holm_gives_what_it_gives_by_hand_and_in_r():
    """R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm"), and p.adjust(c(0.005, 0.011, 0.02, 0.04, 0.13), "holm")."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.13, 0.005, 0.04, 0.011, 0.02]) == pytest.approx([0.13, 0.025, 0.08, 0.044, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    for p, each in zip(p_values, corrected, strict=True):
        assert p <= each <= min(1, p * len(p_values))
    assert [each for _, each in sorted(zip(p_values, corrected, strict=True))] == sorted(corrected)


def test_seeds_that_are_needed():
    for num_tests in range(1, 30):
        num = seeds_needed(num_tests)
        assert num == math.ceil(math.log2(40 * num_tests))
        assert num_tests * 2 / 2**num <= 0.05 < num_tests * 2 / 2 ** (num - 1)
