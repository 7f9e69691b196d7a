"""LogitsTable: the logits of a micro-batch, stacked once for all edges that read them.

Shapes: B valid images of this process' micro-batch, C classes, L learners' outputs, S sources, N ensembles of M members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from mutual.group.edges.common_classes import CommonClasses
from mutual.group.edges.edge import OutputKey
from mutual.group.edges.selection import Selection
from mutual.group.peers import Outputs
from mutual.objectives import ENSEMBLES, Predictions, upcast


@dataclass(frozen=True)
class EnsembleKey:
    """Names an ensemble: the logits of its members, and how they are weighted."""

    members: tuple[OutputKey, ...]
    weighting: str


SourceKey = OutputKey | EnsembleKey


class EnsembleKind(NamedTuple):
    """What ensembles that are computed together have in common."""

    weighting: str
    num_members: int


def kind_of(key: SourceKey) -> EnsembleKind | None:
    """Returns the kind of an ensemble, or None for another source."""
    return EnsembleKind(key.weighting, len(key.members)) if isinstance(key, EnsembleKey) else None


class LogitsTable:
    """Predictions of learners and sources, each stack and each ensemble made when an edge first asks for it.

    Args:
        learner_outputs: outputs of the learners, with their graph.
        source_outputs: outputs of the sources; where a learner is a source its own outputs are read.
        num_rows: the number of images that are read.
    """

    def __init__(self, learner_outputs: Mapping[str, Outputs], source_outputs: Mapping[str, Outputs], num_rows: int) -> None:
        self._learner_outputs = learner_outputs
        self._source_outputs = {**source_outputs, **learner_outputs}
        self._num_rows = num_rows
        self._stacks: dict[object, Predictions] = {}

    def add_sources(self, source_outputs: Mapping[str, Outputs]) -> None:
        """Takes in outputs that come from other processes; what has been stacked read none of them."""
        self._source_outputs = {**self._source_outputs, **source_outputs, **self._learner_outputs}

    def learners(self, keys: tuple[OutputKey, ...], classes: CommonClasses | None) -> Predictions:
        """Returns the predictions `[L, B, C]` of outputs, with their graph, in float32 at least."""
        cache_key = ("learners", keys, classes)
        if cache_key not in self._stacks:
            logits = [self._logits(self._learner_outputs, key, classes) for key in keys]
            dtype = reduce(torch.promote_types, (each.dtype for each in logits))
            self._stacks[cache_key] = Predictions(upcast(torch.stack([each.to(dtype) for each in logits])))
        return self._stacks[cache_key]

    def sources(
        self, keys: tuple[SourceKey, ...], classes: CommonClasses | None, selection: Selection, *, dtype: torch.dtype
    ) -> Predictions:
        """Returns the predictions `[S, B, C]` of peers, moving averages and ensembles, detached.

        Args:
            keys: what is read.
            classes: which classes of it; None: all.
            selection: the images that an ensemble's weights are made for, and their labels.
            dtype: of the learner.
        """
        as_learners = self._stacks.get(("learners", keys, classes))
        if as_learners is not None and as_learners.logits.dtype == dtype:  # the learners teach each other
            return as_learners.derived(Tensor.detach)
        # which images weigh an ensemble is the same for all: those with a label, or with one among `classes`
        cache_key = ("sources", keys, classes, dtype)
        if cache_key not in self._stacks:
            self._stacks[cache_key] = Predictions(self._stack_sources(keys, classes, selection, dtype))
        return self._stacks[cache_key]

    def _stack_sources(self, keys: Sequence[SourceKey], classes: CommonClasses | None, selection: Selection, dtype: torch.dtype) -> Tensor:
        """Returns `[S, B, C]`; neighbouring ensembles of one kind are computed together."""
        stacks = []
        for kind, group in groupby(keys, kind_of):
            same_kind = list(group)
            members = [member for key in same_kind for member in (key.members if isinstance(key, EnsembleKey) else (key,))]
            logits = torch.stack([self._logits(self._source_outputs, key, classes).detach().to(dtype) for key in members])
            if kind is not None:
                logits_NMBC = logits.unflatten(0, (len(same_kind), -1))
                logits = ENSEMBLES[kind.weighting](logits_NMBC, selection.targets, selection.mask)
            stacks.append(logits)
        return torch.cat(stacks) if len(stacks) > 1 else stacks[0]

    def _logits(self, outputs: Mapping[str, Outputs], key: OutputKey, classes: CommonClasses | None) -> Tensor:
        logits_BC = outputs[key.peer][key.path][: self._num_rows]
        return logits_BC if classes is None else classes.restrict(key.peer, logits_BC)
