"""Arms that do not differ are called different as often as the test's level says, and no more often; a real difference is found.

The noise is made up; an effect of the seed, common to both arms, is larger than it, as it is where seeds draw other training images.
"""

import numpy as np
import pytest
import scipy.stats
from made_up_runs import made_up_arm

from mutual.engine.comparison import compare_arms

NUM_COMPARISONS = 400
ATTAINABLE = 2 / 2**6
"""Of the sign-flip test with 6 pairs: 5 % lies between 2 / 64 and 4 / 64."""
NOISES = {"normal": np.random.Generator.normal, "heavy-tailed": lambda generator, size: generator.standard_t(1.5, size=size)}


def compared(scores):
    """Comparison of arms whose scores are the rows; the first is the baseline."""
    arms = [made_up_arm(f"arm{index}", [float(score) for score in row]) for index, row in enumerate(scores)]
    return compare_arms(arms, name="noise", command="", baseline="arm0", seeds=range(len(scores[0])))


def draws(noise, *, num_arms, num_pairs, seed):
    generator = np.random.default_rng(seed)
    for _ in range(NUM_COMPARISONS):
        seed_effect = generator.normal(0, 5, size=(1, num_pairs))
        yield 50 + seed_effect + NOISES[noise](generator, size=(num_arms, num_pairs))


def is_in_binomial_interval(count, num, probability):
    low, high = scipy.stats.binom.interval(0.95, num, probability)
    return low <= count <= high


@pytest.mark.parametrize("noise", NOISES)
def test_equal_arms_are_called_different_at_the_level_that_is_attainable(noise):
    rows = [compared(scores).differences[0] for scores in draws(noise, num_arms=2, num_pairs=6, seed=1)]
    verdicts = [row.verdict for row in rows]
    num_found = NUM_COMPARISONS - verdicts.count("not shown")
    assert is_in_binomial_interval(num_found, NUM_COMPARISONS, ATTAINABLE), num_found
    assert is_in_binomial_interval(verdicts.count("better"), num_found, 0.5), "in both directions alike"
    outside = sum(not low <= 0 <= high for low, high in (row.interval for row in rows))
    if noise == "normal":
        assert is_in_binomial_interval(outside, NUM_COMPARISONS, 0.05), outside


def test_any_of_several_equal_arms_is_called_different_in_5_percent_of_comparisons_at_most():
    """With 8 pairs and 4 tests the smallest p is 2 / 256: one arm by itself comes below 0.05 / 4 so often."""
    comparisons = [compared(scores) for scores in draws("normal", num_arms=5, num_pairs=8, seed=2)]
    num_found = sum(any(row.verdict in ("better", "worse") for row in found.differences) for found in comparisons)
    assert 1 <= num_found <= scipy.stats.binom.ppf(0.975, NUM_COMPARISONS, 0.05)
    num_uncorrected = sum(any(row.p_sign_flip <= 0.05 for row in found.differences) for found in comparisons)
    assert num_uncorrected > 2 * scipy.stats.binom.ppf(0.975, NUM_COMPARISONS, 0.05), "the correction is needed"


def test_a_difference_as_large_as_the_noise_is_found_although_seeds_differ_more():
    verdicts = []
    for scores in draws("normal", num_arms=2, num_pairs=12, seed=3):
        scores[1] += 2
        verdicts.append(compared(scores).differences[0].verdict)
        if len(verdicts) == 50:
            break
    assert verdicts.count("better") >= 48
    assert "worse" not in verdicts
