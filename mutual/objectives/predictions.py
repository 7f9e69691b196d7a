"""Predictions: the logits of one peer or of several, with their log-probabilities at each temperature computed once.

Shapes: B images, C classes; `...` stands for any number of peers, or of pairs of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Predictions:
    """Logits `[..., B, C]` and what losses derive from them.

    Args:
        logits: in float32 at least.

    Example:
        >>> import torch
        >>> predictions = Predictions(torch.zeros(2, 1, 4))
        >>> predictions.probs(temperature=2.0)[0]
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
        >>> pairs = predictions.derived(lambda values: values[[1, 0]])     # of the same probabilities, not computed anew
        >>> pairs.probs(temperature=2.0).shape
        torch.Size([2, 1, 4])
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self._parent: Predictions | None = None
        self._select: Callable[[Tensor], Tensor] | None = None
        self._log_probs: dict[float, Tensor] = {}
        self._probs: dict[float, Tensor] = {}

    def derived(self, select: Callable[[Tensor], Tensor]) -> Predictions:
        """Returns the predictions of some of the peers, or the same in another layout: `select` takes `[..., B, C]`, over every class."""
        child = Predictions(select(self.logits))
        child._parent, child._select = self, select
        return child

    def log_probs(self, temperature: float = 1.0) -> Tensor:
        """Returns the logarithm of the softmax of the logits divided by `temperature`, in nats."""
        if temperature not in self._log_probs:
            if self._parent is not None and self._select is not None:
                log_probs = self._select(self._parent.log_probs(temperature))
            else:
                log_probs = (self.logits if temperature == 1 else self.logits / temperature).log_softmax(dim=-1)
            self._log_probs[temperature] = log_probs
        return self._log_probs[temperature]

    def probs(self, temperature: float = 1.0) -> Tensor:
        """Returns the softmax of the logits divided by `temperature`."""
        if temperature not in self._probs:
            if self._parent is not None and self._select is not None:
                probs = self._select(self._parent.probs(temperature))
            else:
                probs = self.log_probs(temperature).exp()
            self._probs[temperature] = probs
        return self._probs[temperature]

    def nll(self, labels: Tensor) -> Tensor:
        """Returns `[..., B]`: each image's cross-entropy with its class index `[B]`, or with the probabilities of its classes `[B, C]`."""
        return nll_of(self.log_probs(), labels)


def nll_of(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Returns `[..., B]`: minus what `log_probs` `[..., B, C]` has at class indices `[B]`, or minus its sum weighted by labels `[B, C]`."""
    if labels.is_floating_point():
        return -(labels * log_probs).sum(dim=-1)
    index = labels.expand(log_probs.shape[:-1])[..., None]
    return -log_probs.gather(-1, index)[..., 0]


def lowest(values: Tensor) -> float:
    """Returns a logit whose probability is 0; finite, so that 0 times its logarithm is 0."""
    return torch.finfo(values.dtype).min / 4
