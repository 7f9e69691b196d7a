"""ClassIndex: some of the classes that a tensor's columns stand for, and the labels among them.

Shapes: B images, C classes, K of them that are selected.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassIndex(nn.Module):
    """Selects classes, in an order. Its tensors are made once and move with the module, so that no step copies an index to the device.

    Args:
        classes: indices of the classes, each once.
        device: where they are selected.

    Attributes:
        classes: as above.

    Example:
        >>> index = ClassIndex([3, 0])
        >>> index(torch.tensor([[0.5, 1.5, 2.5, 3.5]]))
        tensor([[3.5000, 0.5000]])
        >>> index.labels(torch.tensor([0, 1, 3, -1]))
        (tensor([ 1, -1,  0, -1]), tensor([ True, False,  True, False]))
    """

    index_K: Tensor
    position_C: Tensor

    def __init__(self, classes: Sequence[int], device: torch.device | None = None) -> None:
        super().__init__()
        self.classes = tuple(classes)
        index_K = torch.tensor(self.classes, device=device)
        position_C = torch.full((max(self.classes) + 2,), -1, device=device)  # the last is that of all classes beyond
        position_C[index_K] = torch.arange(len(self.classes), device=device)
        self.register_buffer("index_K", index_K, persistent=False)
        self.register_buffer("position_C", position_C, persistent=False)

    def forward(self, values_BC: Tensor) -> Tensor:
        """Returns the columns `[B, K]` of the classes."""
        return values_BC.index_select(1, self.index_K)

    def labels(self, labels: Tensor, *, multi_label: bool = False) -> tuple[Tensor, Tensor | None]:
        """Returns labels among the classes, and which images `[B]` have one; None: all.

        Args:
            labels: indices `[B]`, -1 for none; or `[B, C]`: probabilities, which are conditioned on the classes, or flags.
            multi_label: they are flags.
        """
        if multi_label:
            return self(labels), None
        if labels.is_floating_point():
            targets_BK = self(labels)
            return F.normalize(targets_BK, p=1, dim=1), targets_BK.sum(dim=1) > 0
        targets_B = torch.where(labels >= 0, self.position_C[labels.clamp(0, len(self.position_C) - 1)], labels)
        return targets_B, targets_B >= 0

    def of(self, classes: Sequence[int]) -> ClassIndex | None:
        """Returns what selects `classes`, some of these, among the columns of these; None where that is all in order."""
        position = {each: index for index, each in enumerate(self.classes)}
        columns = [position[each] for each in classes]
        return None if columns == list(range(len(self.classes))) else ClassIndex(columns, self.index_K.device)
