"""Mixer: how pairs of images are mixed, drawn by the number of the pair in its epoch, or by an image and the number of its view."""

from __future__ import annotations

import numpy as np
import torch

from mutual.data.loading.batch import Mix
from mutual.data.loading.requests import Request
from mutual.recipe import derive_seed


class Mixer:
    """Draws MixUp (arXiv:1710.09412), CutMix (arXiv:1905.04899), or neither.

    Args:
        mixup: MixUp's alpha, 0 where it is off.
        cutmix: CutMix's.
        image_size: height and width of the images.
        seed: the recipe's seed.
        probabilities: of MixUp and of CutMix for a pair.
    """

    def __init__(self, mixup: float, cutmix: float, image_size: tuple[int, int], seed: int, *, probabilities: tuple[float, float]) -> None:
        self._mixup = mixup
        self._cutmix = cutmix
        self._mixup_p, self._cutmix_p = probabilities
        self._size = image_size
        self._seed = seed

    def __call__(self, request: Request) -> Mix:
        """Returns how each of the request's images is mixed with its partner."""
        assert request.partners is not None
        assert request.pairs is not None
        draws = [self._draw(number, pair) for number, pair in request.pairs]
        lam_B = torch.tensor([lam for lam, _ in draws], dtype=torch.float32)
        return Mix(torch.tensor(request.partners), lam_B, torch.tensor([box for _, box in draws]))

    def _draw(self, number: int, pair: int) -> tuple[float, tuple[int, int, int, int]]:
        """Returns lambda (1 for a pair that is not mixed), and CutMix's box (an empty one for MixUp)."""
        generator = np.random.default_rng(derive_seed(self._seed, "mix", number, pair))
        drawn = 0.0 if 1 in (self._mixup_p, self._cutmix_p) else generator.random()
        cut = drawn < self._cutmix_p
        if not cut and drawn >= self._cutmix_p + self._mixup_p:
            return 1.0, (0, 0, 0, 0)
        lam = generator.beta(self._cutmix, self._cutmix) if cut else generator.beta(self._mixup, self._mixup)
        if not cut:
            return lam, (0, 0, 0, 0)
        height, width = self._size
        half_height, half_width = (round(side * (1 - lam) ** 0.5 / 2) for side in self._size)
        row, column = generator.integers(height), generator.integers(width)
        top, bottom = (int(np.clip(edge, 0, height)) for edge in (row - half_height, row + half_height))
        left, right = (int(np.clip(edge, 0, width)) for edge in (column - half_width, column + half_width))
        return 1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right)
