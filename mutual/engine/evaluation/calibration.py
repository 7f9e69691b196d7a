"""Calibration: how far confidence is from accuracy, and the temperature that brings them together.

Shapes: N images, C classes, K bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_BINS = 15
"""Of equal width, as the expected calibration error has them (Guo et al., arXiv:1706.04599)."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0


@dataclass(frozen=True)
class Reliability:
    """Of the predictions in each of K bins of equal width of confidence: their number, and how sure and how right they are.

    Attributes:
        counts_K: number of predictions, int64.
        confidence_sums_K: sum of their confidences, float64 where the device has it.
        hits_K: number of them that are right, int64.
    """

    counts_K: Tensor
    confidence_sums_K: Tensor
    hits_K: Tensor

    @property
    def mean_confidences(self) -> Tensor:
        """The mean confidence in each bin `[K]`; NaN in an empty one."""
        return self.confidence_sums_K / self.counts_K

    @property
    def accuracies(self) -> Tensor:
        """The fraction of the predictions in each bin that are right `[K]`; NaN in an empty one."""
        return self.hits_K / self.counts_K

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean gap of confidence and accuracy, weighted by the counts; NaN of no predictions."""
        gaps_K = (self.confidence_sums_K - self.hits_K).abs()
        return float(gaps_K.sum() / self.counts_K.sum())


def reliability(probabilities: Tensor, labels: Tensor, *, num_bins: int = NUM_BINS, is_counted: Tensor | None = None) -> Reliability:
    """Returns the reliability of the predictions, on the device of `probabilities`; the host waits for nothing.

    For one class an image, confidence is the greatest probability. For several labels each label is a prediction, its confidence is the
    label's probability, and it is right where the label is present.

    Args:
        probabilities: `[N, C]`. Those that are not a number are left out.
        labels: classes `[N]`, or flags `[N, C]` of several labels.
        num_bins: bins of equal width.
        is_counted: flags `[N]` of the images that are counted; None: all.

    Example:
        >>> found = reliability(torch.tensor([[0.9, 0.1], [0.7, 0.3]]), torch.tensor([0, 1]), num_bins=2)
        >>> found.counts_K.tolist(), found.hits_K.tolist(), round(found.ece, 6)
        ([0, 2], [0, 1], 0.3)
    """
    if labels.dim() == 2:
        confidences, is_hit = probabilities.flatten(), labels.flatten() > 0.5
    else:
        confidences, predictions = probabilities.max(dim=1)
        is_hit = predictions == labels
    is_valid = ~confidences.isnan()
    if is_counted is not None:
        is_valid = is_valid & is_counted.repeat_interleave(len(confidences) // max(len(is_counted), 1))
    dtype = torch.float32 if confidences.device.type == "mps" else torch.float64
    bounds = torch.linspace(0, 1, num_bins + 1, device=confidences.device, dtype=confidences.dtype)
    bins = (torch.bucketize(confidences, bounds, right=True) - 1).clamp(0, num_bins - 1)
    is_in_bin_KN = (bins == torch.arange(num_bins, device=bins.device)[:, None]) & is_valid
    # as a matrix product, whose order of addition is the same each time; `index_add` of floats on a GPU has another each time
    sums_K = is_in_bin_KN.to(dtype) @ confidences.nan_to_num().to(dtype)
    return Reliability(is_in_bin_KN.sum(dim=1), sums_K, (is_in_bin_KN & is_hit).sum(dim=1))


@torch.no_grad()
def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Returns the temperature T in 0.01 .. 100 at which the NLL of `logits / T` is least (Guo et al., arXiv:1706.04599).

    The NLL is convex in 1 / T, so that its slope is zero there alone; Brent's method finds it, in float64.

    Args:
        logits: `[N, C]`, finite, of images that the model was not trained on.
        labels: classes `[N]`, or flags `[N, C]` of several labels, whose NLL is that of sigmoids.

    Raises:
        ValueError: there are no images, or logits that are not finite.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]] * 4)  # surer than right: three of four
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 4)  # 2 / log(3)
        1.8205
    """
    from scipy.optimize import brentq  # who evaluates need not wait for it

    if len(logits) == 0:
        raise ValueError("a temperature is fitted to the logits of images, and there are none")
    logits = logits.detach().double().cpu()
    if not logits.isfinite().all():
        raise ValueError("a temperature is fitted to finite logits, and some of these are not")
    labels = labels.detach().cpu()

    def slope(log_scale: float) -> float:
        return _slope(logits, labels, math.exp(log_scale))

    low, high = -math.log(MAX_TEMPERATURE), -math.log(MIN_TEMPERATURE)
    if slope(low) >= 0:
        return MAX_TEMPERATURE
    if slope(high) <= 0:
        return MIN_TEMPERATURE
    return math.exp(-brentq(slope, low, high))


def _slope(logits_NC: Tensor, labels: Tensor, scale: float) -> float:
    """Returns the derivative of the mean NLL of `scale * logits_NC` in `scale`."""
    if labels.dim() == 2:
        return float(((torch.sigmoid(scale * logits_NC) - (labels > 0.5).double()) * logits_NC).mean())
    means_N = (F.softmax(scale * logits_NC, dim=1) * logits_NC).sum(dim=1)
    return float((means_N - logits_NC.gather(1, labels[:, None]).squeeze(1)).mean())
