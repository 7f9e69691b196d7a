"""LossSpec: what a loss is called with. Each module of losses ends with a table of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from torch import nn

from mutual.objectives.shapes import Check, equal_shapes

Input = Literal["learner", "source", "labels", "classes", "row_offset", "num_rows", "mask"]


class SourcePayload(Enum):
    """How much of a source's output a loss reads; each can be computed from the whole."""

    DISTANCES = 0
    """The distances between the images, `[B, B]`."""
    VECTOR = 1
    """Of feature maps the mean over the positions, `[B, D]`."""
    WHOLE = 2

    def combined(self, other: SourcePayload) -> SourcePayload:
        """Returns how much serves for both: distances between whole feature maps cannot be had from their means.

        Example:
            >>> SourcePayload.VECTOR.combined(SourcePayload.DISTANCES).name, SourcePayload.VECTOR.combined(SourcePayload.VECTOR).name
            ('WHOLE', 'VECTOR')
        """
        return self if self is other else SourcePayload.WHOLE


@dataclass(frozen=True)
class LossSpec:
    """What a loss is and what it reads.

    Attributes:
        function: computes the loss from `inputs` and its keyword arguments. Or a module class, constructed with the shapes of learner and
            source and these arguments, and called with `inputs`: an adapter, whose parameters belong to the learner.
        inputs: what it is called with, in this order. `learner` and `source`: their outputs, the source's detached. `labels`: class
            indices `[B]`, or probabilities or flags `[B, C]`; `classes`: always indices. `row_offset`: the loss compares with the images
            of all processes; source and labels are theirs, and the learner's own begin at this row. `num_rows`: `learner`, too, has the
            rows of all processes, and so many from `row_offset` on are this process' own, the only ones with a gradient. `mask`: True
            for the images that count, of all processes where the loss gathers, or None for all.
        check: what it asks of the shapes of learner and source; adapters check in their constructor.
        multi_output: it reads all outputs that `at` lists together, as lists.
        multi_source: it reads all sources of a learner together, and the logits of each beside `at`.
        on_logits: `learner` and `source` are `Predictions` `[..., B, C]`: of any number of pairs, which are computed together.
        per_image: it returns `[..., B]`, a loss for each image, which is not looked at where the image does not count. Otherwise it reads
            `mask`, if it must know it, and returns the mean over the images that count. None: its result tells, one value or `[B]`.
        is_stochastic: it draws random numbers.
        payload: how much of a source's output it reads, which is what travels between processes.
        from_model: makes further arguments of the constructor from the source's model and the module paths that the loss reads of it.
    """

    function: Callable[..., Any]
    inputs: tuple[Input, ...] = ("learner", "source")
    check: Check = equal_shapes
    multi_output: bool = False
    multi_source: bool = False
    on_logits: bool = False
    per_image: bool | None = True
    is_stochastic: bool = False
    payload: SourcePayload = SourcePayload.WHOLE
    from_model: Callable[[nn.Module, list[str]], dict[str, Any]] | None = None

    @property
    def has_adapter(self) -> bool:
        """Whether the loss has parameters of its own."""
        return isinstance(self.function, type)

    @property
    def reads_source(self) -> bool:
        """Whether the loss compares with a source."""
        return "source" in self.inputs

    @property
    def reads_labels(self) -> bool:
        """Whether an image without a label has no loss."""
        return "labels" in self.inputs or "classes" in self.inputs

    @property
    def gathers(self) -> bool:
        """Whether source and labels are those of all processes."""
        return "row_offset" in self.inputs

    @property
    def gathers_learner(self) -> bool:
        """Whether the learner's output is that of all processes."""
        return "num_rows" in self.inputs
