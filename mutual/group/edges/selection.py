"""Selection: which images of a micro-batch a loss reads; made once for each gate and source, and shared by the edges.

Shapes: B valid images of this process' micro-batch, R rows of them that are selected, M members of an ensemble, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.group.edges.common_classes import CommonClasses
from mutual.group.edges.edge import Edge, Paths, distances_key
from mutual.group.peers import Outputs
from mutual.objectives import ENSEMBLES
from mutual.recipe import ENSEMBLE, LOGITS, DistillationObjective


@dataclass(frozen=True)
class Selection:
    """The images that a loss reads.

    Attributes:
        rows: indices `[R]` of the images in the micro-batch, or a slice.
        targets: their labels, `[R]` or `[R, C]`.
        fraction: R / B. If 0, no image is selected; the loss is then computed on all rows, so that every parameter has a gradient, and
            weighted by 0.
    """

    rows: slice | Tensor
    targets: Tensor
    fraction: float


@dataclass(frozen=True)
class OutputReader:
    """Reads the outputs of one peer or moving average."""

    source: str
    paths: Paths
    classes: CommonClasses | None = None

    def read(self, source_outputs: Mapping[str, Outputs], selection: Selection) -> list[Tensor]:
        """Returns the detached outputs of the selected rows, `[R, ...]`; distances `[R, R]` where they arrived in an output's place."""
        outputs, rows = source_outputs[self.source], selection.rows
        keys = [distances_key(path) for path in self.paths]
        return [
            outputs[key][rows][:, rows] if key in outputs else self._restrict(path, outputs[path][rows].detach())
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
        """Returns the ensemble's detached logits of the selected rows, `[R, C]` in float32."""
        logits = {member: source_outputs[member][LOGITS][selection.rows].detach().float() for member in self.members}
        if self.classes is not None:
            logits = {member: self.classes.restrict(member, each) for member, each in logits.items()}
        logits_MRC = torch.stack(list(logits.values()))
        return [ENSEMBLES[self.weighting](logits_MRC, selection.targets)]

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

    def select(self, labels: Tensor, source_outputs: Mapping[str, Outputs]) -> Selection:
        """Returns the selected images among those with `labels` `[B]` (-1: no label) or `[B, C]`."""
        all_rows = slice(len(labels))
        is_selected_B = labels >= 0 if self.labelled_only else None
        if self.classes is not None:
            labels, is_selected_B = self.classes.labels(labels)
        targets = labels.clamp(min=0) if is_selected_B is not None and not labels.is_floating_point() else labels
        if self.gate is not None:
            (logits_BC,) = self.gate.read(source_outputs, Selection(all_rows, targets, 1.0))
            is_correct_B = logits_BC.argmax(dim=1) == (targets.argmax(dim=1) if targets.is_floating_point() else targets)
            is_selected_B = is_correct_B if is_selected_B is None else is_selected_B & is_correct_B
        if is_selected_B is None:
            return Selection(all_rows, targets, 1.0)
        rows = is_selected_B.nonzero().flatten()
        if len(rows) == 0:
            return Selection(all_rows, targets, 0.0)
        return Selection(rows, targets[rows], len(rows) / len(labels))


class Selections:
    """The selections of one micro-batch, each made when an edge first asks for it.

    Args:
        labels: labels of the valid images, among which is selected.
    """

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels
        self._by_selector: dict[Selector, Selection] = {}

    def get(self, selector: Selector, source_outputs: Mapping[str, Outputs]) -> Selection:
        """Returns what `selector` selects; its gate's source must be in `source_outputs`."""
        if selector not in self._by_selector:
            self._by_selector[selector] = selector.select(self._labels, source_outputs)
        return self._by_selector[selector]
