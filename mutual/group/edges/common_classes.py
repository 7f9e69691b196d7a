"""CommonClasses: the classes that all logits which an edge reads stand for, where some source does not know all of the data's.

The loss then compares distributions over these classes alone, both ends conditioned on them: a softmax over the logits of a part of the
classes is the distribution given that the class is among them. Images of other classes have no label there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mutual.group.edges.edge import Edge
from mutual.recipe import ENSEMBLE, LOGITS

KnownClasses = Mapping[str, tuple[int, ...]]
"""By peer the classes of the data that its logits `[B, K]` stand for, in the data's order; a peer that is not there knows all."""


@dataclass(frozen=True)
class CommonClasses:
    """The classes in common of an edge's learner and sources.

    Attributes:
        classes: indices of the data's classes.
        known: the sources that do not know all classes.
        num_classes: classes of the data.
        multi_label: an image has several labels and not one class.
    """

    classes: tuple[int, ...]
    known: tuple[tuple[str, tuple[int, ...]], ...]
    num_classes: int
    multi_label: bool

    @classmethod
    def of(cls, edge: Edge, known: KnownClasses, *, num_classes: int, multi_label: bool) -> CommonClasses | None:
        """Returns the classes in common, or None where all sources whose logits the edge reads know all classes.

        Raises:
            ValueError: there are fewer than two.
        """
        partial = {name: known[name] for name in _logit_sources(edge) if name in known}
        if not partial:
            return None
        common = set(range(num_classes)).intersection(*partial.values())
        if len(common) < 2:
            raise ValueError(f"its sources have {len(common)} of the data's {num_classes} classes in common; an edge compares two or more")
        return cls(tuple(sorted(common)), tuple(partial.items()), num_classes, multi_label)

    def restrict(self, peer: str, logits_BK: Tensor) -> Tensor:
        """Returns a peer's logits of the classes in common."""
        known = dict(self.known).get(peer)
        columns = self.classes if known is None else tuple(known.index(index) for index in self.classes)
        return logits_BK if columns == tuple(range(logits_BK.shape[1])) else logits_BK[:, list(columns)]

    def labels(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns labels among the classes in common, and which images `[B]` have one.

        Args:
            labels: indices `[B]`, -1 for none; or `[B, C]`: probabilities, which are conditioned on the classes, or flags.
        """
        columns = torch.tensor(self.classes, device=labels.device)
        if not labels.is_floating_point():
            position_C = torch.full((self.num_classes,), -1, device=labels.device)
            position_C[columns] = torch.arange(len(columns), device=labels.device)
            targets = torch.where(labels >= 0, position_C[labels.clamp(min=0)], labels)
            return targets, targets >= 0
        targets = labels[:, columns]
        if self.multi_label:
            return targets, torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        return F.normalize(targets, p=1, dim=1), targets.sum(dim=1) > 0


def _logit_sources(edge: Edge) -> list[str]:
    """Returns the peers whose logits an edge reads as a source's."""
    names: list[str] = []
    for source, paths in zip(edge.sources, edge.source_at, strict=True):
        if source == ENSEMBLE:
            names += edge.members
        elif LOGITS in paths or edge.objective.gate == "correct":
            names.append(source)
    return list(dict.fromkeys(names))
