"""McNemar's exact test and the paired t-test, against their closed forms."""

import math

import pytest
import torch
from scipy.stats import t as student

from mutual.engine.report.chance import PairedTest, mcnemar_p, t_test_p


def right(*runs):
    """Flags from (number, first right, second right)."""
    rows = [row for number, *row in runs for _ in range(number)]
    return tuple(torch.tensor(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize(("only_first", "only_second"), [(6, 0), (8, 2), (5, 5), (1, 0)])
def test_mcnemar_is_the_binomial_test_of_the_images_on_which_one_alone_is_right(only_first, only_second):
    number = only_first + only_second
    expected = min(1.0, 2 * sum(math.comb(number, k) for k in range(min(only_first, only_second) + 1)) / 2**number)
    flags = right((only_first, True, False), (only_second, False, True), (40, True, True), (9, False, False))
    assert mcnemar_p(*flags) == pytest.approx(expected)


def test_members_that_are_right_on_the_same_images_are_alike():
    assert mcnemar_p(*right((3, True, True), (2, False, False))) == 1


def test_the_paired_t_test_is_students():
    first, second = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.5, 1.0, 2.5, 4.5])
    t = 0.375 / (math.sqrt(((0.125**2) * 2 + 0.625**2 + 0.875**2) / 3) / 2)
    assert t_test_p(first, second) == pytest.approx(2 * student.sf(t, 3))
    assert t_test_p(first, first) == 1
    assert t_test_p(first + 1, first) == 0
    assert math.isnan(t_test_p(first * torch.nan, first))


def test_a_test_that_says_nothing_is_neither_sure_nor_chance():
    assert not PairedTest("", math.nan).may_be_chance
    assert not PairedTest("", math.nan).is_sure
    assert str(PairedTest("t", 0.0001)) == "t, p < 0.001"
    assert str(PairedTest("t", 0.314)) == "t, p = 0.31"
