"""Whether a difference of two members on the same images may be chance: McNemar's exact test, and the paired t-test of their NLL.

Shapes: N images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mutual.engine.report.predictions import SplitPredictions

LEVEL = 0.05
"""A difference whose p is lower is not put down to chance."""


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of two members on the same images.

    Attributes:
        name: of the test.
        p: NaN where nothing can be said.
        standard_error: of the difference of their means.
    """

    name: str
    p: float
    standard_error: float = math.nan

    @property
    def may_be_chance(self) -> bool:
        """Whether the members cannot be told apart; False where nothing can be said."""
        return self.p >= LEVEL

    @property
    def is_sure(self) -> bool:
        """Whether they can be told apart; False where nothing can be said."""
        return self.p < LEVEL

    def __str__(self) -> str:
        return f"{self.name}, p {'< 0.001' if self.p < 0.001 else f'= {self.p:.2g}'}"


def paired_test(predictions: SplitPredictions, metric: str, first: str, second: str) -> PairedTest:
    """Returns the test that belongs to a metric, of two members that know all classes and images of one class each."""
    if metric == "nll":
        losses = [F.cross_entropy(predictions.logits[member], predictions.labels, reduction="none") for member in (first, second)]
        return PairedTest("paired t-test", t_test_p(*losses), standard_error(*losses))
    is_right = [predictions.predictions(member) == predictions.labels for member in (first, second)]
    return PairedTest("McNemar's exact test", mcnemar_p(*is_right), standard_error(*is_right))


def standard_error(first_N: Tensor, second_N: Tensor) -> float:
    """Returns the standard error of the mean difference of two figures of the same images; NaN of one image.

    Example:
        >>> import torch
        >>> standard_error(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.zeros(4))
        0.25
    """
    difference_N = first_N.double() - second_N.double()
    if len(difference_N) < 2:
        return math.nan
    return float(difference_N.std(correction=0) / math.sqrt(len(difference_N)))


def mcnemar_p(first_N: Tensor, second_N: Tensor) -> float:
    """Returns the two-sided p of McNemar's exact test, from which images each of two members is right on.

    Of the images on which one alone is right, each is as often that one, if they are equal.

    Example:
        >>> import torch
        >>> mcnemar_p(torch.tensor([True] * 6), torch.tensor([False] * 6))  # 2 / 2^6
        0.03125
    """
    from scipy.stats import binomtest  # imported where it is needed: it takes a second

    only_first, only_second = int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def t_test_p(first_N: Tensor, second_N: Tensor) -> float:
    """Returns the two-sided p of Student's t-test of the differences of two figures of the same images; NaN of too few, or not finite."""
    from scipy.stats import ttest_1samp  # as above

    difference_N = (first_N - second_N).double()
    if len(difference_N) < 2 or not difference_N.isfinite().all():
        return math.nan
    if bool((difference_N == difference_N[0]).all()):
        return 1.0 if difference_N[0] == 0 else 0.0
    return float(ttest_1samp(difference_N.numpy(), 0.0).pvalue)
