"""Linear CKA of features of two models (Kornblith et al., arXiv:1905.00414), without keeping the features.

HSIC is estimated without bias from minibatches (Song et al., JMLR 2012, equation 5; Nguyen et al., arXiv:2010.15327, equation 3): of a
minibatch of features no more than its Gram matrix `[B, B]` is needed, and the estimates of the minibatches are averaged. So the CKA of
features that have nothing to do with each other is about 0, whatever the number of images; it may be a little below.

Shapes: B images of a minibatch, D numbers of an image's features.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Generic, TypeVar

from torch import Tensor

MIN_BATCH = 4
"""The estimate without bias needs so many images."""
KeyT = TypeVar("KeyT", bound=Hashable)
Tap = tuple[str, str]
"""A peer and a module path in it."""


class LinearCKA(Generic[KeyT]):
    """The linear CKA of each pair of several features of the same images.

    Example:
        >>> features = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        >>> cka = LinearCKA()
        >>> cka.add({"a": features, "twice": 2 * features})
        >>> round(cka.value("a", "twice"), 4)
        1.0
    """

    def __init__(self) -> None:
        self._sums: dict[frozenset[KeyT], float] = defaultdict(float)

    def add(self, features: Mapping[KeyT, Tensor]) -> None:
        """Adds the features `[B, ...]` of a minibatch, which are flattened; one of fewer than four images says nothing."""
        grams = {key: _gram(each) for key, each in features.items() if len(each) >= MIN_BATCH}
        for first, second in combinations_with_replacement(grams, 2):
            self._sums[frozenset((first, second))] += hsic(grams[first], grams[second])

    def value(self, first: KeyT, second: KeyT) -> float:
        """Returns the CKA of two features, 1 where they are equal apart from a rotation and a factor; NaN where one of them is constant."""
        variance = self._sums[frozenset((first,))] * self._sums[frozenset((second,))]
        return self._sums[frozenset((first, second))] / math.sqrt(variance) if variance > 0 else math.nan


def hsic(first_BB: Tensor, second_BB: Tensor) -> float:
    """Returns the estimate without bias of HSIC from the Gram matrices of at least four images."""
    size = len(first_BB)
    first_BB, second_BB = (each.clone().fill_diagonal_(0) for each in (first_BB, second_BB))
    rows_B, columns_B = first_BB.sum(dim=0), second_BB.sum(dim=0)
    total = (first_BB * second_BB).sum()
    total = total + rows_B.sum() * columns_B.sum() / ((size - 1) * (size - 2)) - 2 * (rows_B @ columns_B) / (size - 2)
    return float(total / (size * (size - 3)))


def _gram(features: Tensor) -> Tensor:
    """Returns the products of the features of each two images `[B, B]` in float64; the mean, which changes nothing, is taken away."""
    features_BD = features.detach().flatten(1).float()
    features_BD = features_BD - features_BD.mean(dim=0)
    return (features_BD @ features_BD.T).cpu().double()


def pair_values(cka: LinearCKA[Tap], paths: Mapping[str, Sequence[str]], first: str, second: str) -> dict[tuple[str, str], float]:
    """Returns the CKA of each of the paths of one peer with each of another one's, where it is finite."""
    values = {(a, b): cka.value((first, a), (second, b)) for a in paths.get(first, ()) for b in paths.get(second, ())}
    return {key: value for key, value in values.items() if math.isfinite(value)}
