"""CommonClasses: the classes that all logits which an edge reads stand for, where some source does not know all of the data's.

The loss then compares distributions over these classes alone, both ends conditioned on them: a softmax over the logits of a part of the
classes is the distribution given that the class is among them. Images of other classes have no label there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mutual.group.edges.edge import Edge
from mutual.models import ClassIndex
from mutual.recipe import ENSEMBLE, LOGITS

KnownClasses = Mapping[str, tuple[int, ...]]
"""By peer the classes of the data that its logits `[B, K]` stand for, in the data's order; a peer that is not there knows all."""


@dataclass(frozen=True)
class CommonClasses:
    """The classes in common of an edge's learner and sources.

    Attributes:
        classes: indices of the data's classes.
        known: the sources that do not know all classes.
        multi_label: an image has several labels and not one class.
        among_all: selects the classes from all of the data's.
        among_known: by source what selects them from those that it knows; None: these are the classes in common.
    """

    classes: tuple[int, ...]
    known: tuple[tuple[str, tuple[int, ...]], ...]
    multi_label: bool
    among_all: ClassIndex = field(compare=False)
    among_known: Mapping[str, ClassIndex | None] = field(compare=False)

    @classmethod
    def of(
        cls, edge: Edge, known: KnownClasses, *, num_classes: int, multi_label: bool, device: torch.device | None = None
    ) -> CommonClasses | None:
        """Returns the classes in common, or None where all sources whose logits the edge reads know all classes.

        Args:
            edge: the edge.
            known: the peers that do not know all classes.
            num_classes: classes of the data.
            multi_label: an image has several labels and not one class.
            device: of the logits.

        Raises:
            ValueError: there are fewer than two.
        """
        partial = {name: known[name] for name in _logit_sources(edge) if name in known}
        if not partial:
            return None
        common = sorted(set(range(num_classes)).intersection(*partial.values()))
        if len(common) < 2:
            raise ValueError(f"its sources have {len(common)} of the data's {num_classes} classes in common; an edge compares two or more")
        among_known = {name: ClassIndex(classes, device).of(common) for name, classes in partial.items()}
        return cls(tuple(common), tuple(partial.items()), multi_label, ClassIndex(common, device), among_known)

    def restrict(self, peer: str, logits_BK: Tensor) -> Tensor:
        """Returns a peer's logits of the classes in common."""
        index = self.among_known.get(peer, self.among_all)
        if index is None:
            return logits_BK
        restricted: Tensor = index(logits_BK)
        return restricted

    def labels(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns labels among the classes in common, and which images `[B]` have one; None: all. See `ClassIndex.labels`."""
        return self.among_all.labels(labels, multi_label=self.multi_label)


def _logit_sources(edge: Edge) -> list[str]:
    """Returns the peers whose logits an edge reads as a source's."""
    names: list[str] = []
    for source, paths in zip(edge.sources, edge.source_at, strict=True):
        if source == ENSEMBLE:
            names += edge.members
        elif LOGITS in paths or edge.objective.gate == "correct":
            names.append(source)
    return list(dict.fromkeys(names))
