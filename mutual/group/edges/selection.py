"""Selection: which images of a micro-batch count in a loss; made once for each gate and source, and shared by the edges.

Shapes: B valid images of this process' micro-batch, M members of an ensemble, C classes. Losses are computed on all images, and those that
do not count have a loss of 0: shapes do not depend on the data, and the host waits for none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from mutual.group.edges.common_classes import CommonClasses
from mutual.group.edges.edge import Edge, Paths, distances_key
from mutual.group.peers import Outputs
from mutual.objectives import ENSEMBLES
from mutual.recipe import ENSEMBLE, LOGITS, DistillationObjective


@dataclass(frozen=True)
class Selection:
    """The images that count in a loss.

    Attributes:
        targets: labels of all images, `[B]` or `[B, C]`; of one without a label any class.
        mask: `[B]`, True for the images that count; None: all.
    """

    targets: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class OutputReader:
    """Reads the outputs of one peer or moving average."""

    source: str
    paths: Paths
    classes: CommonClasses | None = None

    def read(self, source_outputs: Mapping[str, Outputs], selection: Selection) -> list[Tensor]:
        """Returns the detached outputs `[B, ...]`; distances `[B, B]` where they arrived in an output's place."""
        outputs, rows = source_outputs[self.source], slice(len(selection.targets))
        keys = [distances_key(path) for path in self.paths]
        return [
            outputs[key][rows, rows] if key in outputs else self._restrict(path, outputs[path][rows].detach())
            for path, key in zip(self.paths, keys, strict=True)
        ]

    def _restrict(self, path: str, output: Tensor) -> Tensor:
        return output if self.classes is None or path != LOGITS else self.classes.restrict(self.source, output)

    def reads_distances(self, source_outputs: Mapping[str, Outputs]) -> bool:
        """Returns True if distances arrived in an output's place."""
        return any(distances_key(path) in source_outputs[self.source] for path in self.paths)


@dataclass(frozen=True)
class EnsembleReader:
    """Reads the logits of an ensemble of peers."""

    members: tuple[str, ...]
    weighting: str
    classes: CommonClasses | None = None

    def read(self, source_outputs: Mapping[str, Outputs], selection: Selection) -> list[Tensor]:
        """Returns the ensemble's detached logits `[B, C]`, in float32 at least."""
        logits = {member: source_outputs[member][LOGITS][: len(selection.targets)].detach() for member in self.members}
        if self.classes is not None:
            logits = {member: self.classes.restrict(member, each) for member, each in logits.items()}
        dtype = reduce(torch.promote_types, (each.dtype for each in logits.values()), torch.float32)
        logits_MBC = torch.stack([each.to(dtype) for each in logits.values()])
        return [ENSEMBLES[self.weighting](logits_MBC, selection.targets, selection.mask)]

    def reads_distances(self, source_outputs: Mapping[str, Outputs]) -> bool:
        """Returns False: members send logits."""
        return False


Reader = OutputReader | EnsembleReader


def readers_of(edge: Edge, classes: CommonClasses | None = None) -> list[Reader]:
    """Returns a reader for each source of the edge."""
    return [_reader(edge, source, paths, classes) for source, paths in zip(edge.sources, edge.source_at, strict=True)]


def _reader(edge: Edge, source: str, paths: Paths, classes: CommonClasses | None) -> Reader:
    if source != ENSEMBLE:
        return OutputReader(source, paths, classes)
    assert isinstance(edge.objective, DistillationObjective), "only such an objective has sources"
    return EnsembleReader(edge.members, "mean" if edge.objective.ensemble is None else edge.objective.ensemble.weighting, classes)


@dataclass(frozen=True)
class Selector:
    """How an edge selects images.

    Attributes:
        labelled_only: skip images without a label.
        gate: if given, select the images that this source classifies correctly.
        classes: if given, select the images with a label among these, and give the labels among them.
    """

    labelled_only: bool = False
    gate: Reader | None = None
    classes: CommonClasses | None = None

    @classmethod
    def of(cls, edge: Edge, *, unlabelled: bool, classes: CommonClasses | None = None) -> Selector:
        """Returns the selector of an edge.

        Args:
            edge: the edge.
            unlabelled: the data have images without a label.
            classes: those in common of learner and sources, where these are not all.
        """
        gate = _reader(edge, edge.sources[0], (LOGITS,), classes) if edge.objective.gate == "correct" else None
        return cls(unlabelled and edge.reads_labels, gate, classes if edge.reads_labels else None)

    @property
    def without_gate(self) -> Selector:
        """The same but for the gate."""
        return Selector(self.labelled_only, None, self.classes)

    def select(self, labels: Tensor) -> Selection:
        """Returns the images that count among those with `labels` `[B]` (-1: no label) or `[B, C]`; the gate is left out."""
        mask_B = labels >= 0 if self.labelled_only else None
        if self.classes is not None:
            labels, mask_B = self.classes.labels(labels)
        return Selection(labels if mask_B is None or labels.is_floating_point() else labels.clamp(min=0), mask_B)


class Selections:
    """The selections of one micro-batch, each made when an edge first asks for it.

    Args:
        labels: labels of the valid images, among which is selected.

    Attributes:
        num_rows: the number of valid images.
    """

    def __init__(self, labels: Tensor) -> None:
        self.num_rows = len(labels)
        self._labels = labels
        self._by_selector: dict[Selector, Selection] = {}

    def get(self, selector: Selector, source_outputs: Mapping[str, Outputs]) -> Selection:
        """Returns what `selector` selects; its gate's source must be in `source_outputs`."""
        if selector not in self._by_selector:
            if selector.gate is None:
                self._by_selector[selector] = selector.select(self._labels)
            else:
                selection = self.get(selector.without_gate, source_outputs)
                (logits_BC,) = selector.gate.read(source_outputs, selection)
                self._by_selector[selector] = Selection(selection.targets, correct_among(selection, logits_BC))
        return self._by_selector[selector]


def correct_among(selection: Selection, logits: Tensor) -> Tensor:
    """Returns `[..., B]`: True for the images of a selection whose label, or likeliest one, `logits` `[..., B, C]` give most to."""
    targets = selection.targets.argmax(dim=1) if selection.targets.is_floating_point() else selection.targets
    is_correct = logits.argmax(dim=-1) == targets
    return is_correct if selection.mask is None else is_correct & selection.mask
