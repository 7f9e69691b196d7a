"""Statistics of paired differences: Student's interval, the exact sign-flip test, and Holm's correction.

A difference is of one metric between two arms under the same seed. n pairs have 2^n changes of signs, so that the smallest two-sided p that
the sign-flip test can give is 2 / 2^n: with 5 pairs 0.0625, above 5 % whatever was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

LEVEL = 0.05
"""The probability of calling a difference real that is none, over all tests of a family."""
NUM_SIGN_CHANGES = 2**16
"""At most so many changes of signs are evaluated: all of up to 16 pairs, of more pairs a draw."""
_ROUNDING = float(np.finfo(np.float32).eps)
"""Scores are computed in float32: what differs by less, relative to the scores, is equal."""


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Returns mean and standard deviation (n - 1); None where there are too few values for it.

    Example:
        >>> mean_and_std([1.0, 3.0])
        (2.0, 1.4142135623730951)
        >>> mean_and_std([1.0])
        (1.0, None)
    """
    return (fmean(values) if values else None), (stdev(values) if len(values) > 1 else None)


def t_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Returns the 95 % interval of the mean by Student's t with n - 1 degrees of freedom; None of fewer than two differences."""
    mean, std = mean_and_std(differences)
    if mean is None or std is None:
        return None
    from scipy.stats import t

    num = len(differences)
    half_width = float(t.ppf(1 - LEVEL / 2, num - 1)) * std / math.sqrt(num)
    return mean - half_width, mean + half_width


def sign_flip_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Returns the two-sided p of the mean paired difference: the fraction of changes of signs whose mean is as far from 0, or farther.

    If the arms do not differ, each difference is as likely as its negative. Means that are equal up to the rounding of the scores count as
    equal. Exact for up to 16 pairs; of more, 65,536 changes of signs are drawn (always the same ones) and the p can be no less than
    1 / 65,537. None of no pairs.
    """
    if len(first) < 2:
        return 1.0 if first else None  # of one pair both signs are as far from 0
    from scipy.stats import permutation_test

    scores, others = np.asarray(first, np.float64), np.asarray(second, np.float64)
    differences = scores - others
    found = permutation_test(
        (differences,),
        _sums,
        permutation_type="samples",  # of one sample: its signs are changed
        vectorized=True,
        n_resamples=NUM_SIGN_CHANGES,
        random_state=0,
    )
    tolerance = _ROUNDING * (np.abs(scores) + np.abs(others)).sum()
    num_extreme = np.count_nonzero(np.abs(found.null_distribution) >= abs(found.statistic) - tolerance)
    is_drawn = 2 ** len(differences) > NUM_SIGN_CHANGES  # then what was observed is one more change of signs
    return float((num_extreme + is_drawn) / (len(found.null_distribution) + is_drawn))


def _sums(differences: np.ndarray, axis: int) -> np.ndarray:
    return differences.sum(axis=axis)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected by Holm's step-down procedure, in the order given (Scandinavian Journal of Statistics 6, 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def smallest_p(num_pairs: int, num_tests: int = 1) -> float:
    """Returns the smallest p that the sign-flip test of `num_pairs` can give, after Holm's correction over `num_tests`."""
    return min(1.0, num_tests * max(2.0 ** (1 - num_pairs), 1 / (NUM_SIGN_CHANGES + 1)))


def seeds_needed(num_tests: int = 1) -> int:
    """Returns the least number of pairs with which the sign-flip test can come below 5 %, after Holm's correction over `num_tests`.

    Example:
        >>> [seeds_needed(num_tests) for num_tests in (1, 2, 3, 4, 7)]
        [6, 7, 7, 8, 9]
    """
    return next((num for num in range(1, 17) if smallest_p(num, num_tests) <= LEVEL), 17)
