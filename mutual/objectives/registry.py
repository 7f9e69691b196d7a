"""build_loss: a loss by its name, as a module `loss(learner, source, labels) -> scalar`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mutual.objectives import adapters, attention, contrast, feature, relation, response
from mutual.objectives.shapes import Check, Extent, Shape, any_shapes, equal_shapes, feature_maps
from mutual.recipe import OBJECTIVES, check_section, did_you_mean

Output = Tensor | list[Tensor]
"""What a loss reads of one end: one output `[B, ...]`, or several for a loss with `many`."""


@dataclass(frozen=True)
class Definition:
    """What a loss is and what it reads.

    Attributes:
        make: a function of the outputs and its arguments, or with `trained` a module class that is told both shapes.
        trained: it has a trainable part, an adapter, which belongs to the learner.
        reads_source: it compares with a source.
        reads_labels: it is told the labels, too.
        check: what it asks of the two shapes; trained losses check in their constructor.
        many: it reads all outputs that `at` lists together.
        joint: it reads all sources of a learner together, and of each end its logits besides `at`.
        draws: it draws random numbers.
        extent: how much of a source's output it reads.
        gathers: its sources (and labels) are those of all processes, and it is told where this process' begin.
        from_model: makes further arguments from the source's model and the paths that the loss reads of it.
    """

    make: Callable[..., Any]
    trained: bool = False
    reads_source: bool = True
    reads_labels: bool = False
    check: Check = any_shapes
    many: bool = False
    joint: bool = False
    draws: bool = False
    extent: Extent = Extent.WHOLE
    gathers: bool = False
    from_model: Callable[[nn.Module, list[str]], dict[str, Any]] | None = None


def _on_logits(make: Callable[..., Tensor], *, reads_labels: bool = False) -> Definition:
    return Definition(make, reads_labels=reads_labels, check=equal_shapes)


LOSSES: dict[str, Definition] = {
    "cross_entropy": Definition(response.cross_entropy, reads_source=False, reads_labels=True),
    "bce": Definition(response.bce, reads_source=False, reads_labels=True),
    "kd": _on_logits(response.kd),
    "soft_label": _on_logits(response.soft_label),
    "dml": _on_logits(response.dml),
    "dkd": _on_logits(response.dkd, reads_labels=True),
    "dist": _on_logits(response.dist),
    "wsl": _on_logits(response.wsl, reads_labels=True),
    "skd": _on_logits(response.skd, reads_labels=True),
    "ssld": _on_logits(response.ssld),
    "l1": Definition(feature.l1, check=equal_shapes),
    "l2": Definition(feature.l2, check=equal_shapes),
    "smooth_l1": Definition(feature.smooth_l1, check=equal_shapes),
    "cosine": Definition(feature.cosine, check=equal_shapes),
    "at": Definition(feature.attention_transfer, check=feature_maps),
    "hint": Definition(adapters.Hint, trained=True),
    "ofd": Definition(adapters.OverHaul, trained=True, many=True, from_model=adapters.margins_of),
    "mgd": Definition(adapters.MaskedGeneration, trained=True, draws=True),
    "afd": Definition(attention.AttentionFeature, trained=True, many=True),
    "pefd": Definition(adapters.ProjectorEnsemble, trained=True, extent=Extent.VECTOR),
    "crd": Definition(contrast.ContrastiveRepresentation, trained=True, reads_labels=True, extent=Extent.VECTOR, gathers=True),
    "mcl": Definition(contrast.MutualContrastive, trained=True, reads_labels=True, extent=Extent.VECTOR, gathers=True),
    "okddip": Definition(attention.DiversePeers, trained=True, many=True, joint=True, extent=Extent.VECTOR),
    "rkd_distance": Definition(relation.rkd_distance, extent=Extent.DISTANCES),
    "rkd_angle": Definition(relation.rkd_angle, extent=Extent.DISTANCES),
}


class Loss(nn.Module):
    """One end-to-end rule for all losses: the source is detached, and the mathematics runs in float32 at least.

    Attributes:
        definition: what the loss reads.
        arguments: those of its section in a recipe.
        adapter: its trainable part, or None.
    """

    def __init__(self, definition: Definition, arguments: dict[str, Any], adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.definition = definition
        self.arguments = arguments
        self.adapter = adapter

    def forward(
        self, learner: Output, source: Output | None = None, labels: Tensor | None = None, *, first: int = 0, measured: bool = False
    ) -> Tensor:
        """Returns the scalar loss of `learner` `[B, ...]`; what the loss does not read may be None.

        Where the loss gathers, `source` and `labels` are those of all processes, and the learner's begin at `first`. Where it reads
        distances alone and they are `measured`, `source` is these, `[B, B]`.
        """
        reads = self.definition
        inputs: list[Any] = [_exact(learner)]
        if reads.reads_source:
            assert source is not None, "this loss reads a source"
            inputs.append(_exact([each.detach() for each in source] if isinstance(source, list) else source.detach()))
        if reads.reads_labels:
            assert labels is not None, "this loss reads labels"
            inputs.append(labels)
        if reads.gathers:
            inputs[-1] = _classes(inputs[-1])
            inputs.append(first)
        with torch.autocast(_device_type(learner), enabled=False):
            if reads.extent is Extent.DISTANCES and not measured:
                inputs[1] = relation.distances(inputs[1])
            value: Tensor = reads.make(*inputs, **self.arguments) if self.adapter is None else self.adapter(*inputs)
        return value

    def extra_repr(self) -> str:
        """Returns what `print(loss)` shows."""
        return ", ".join([self.definition.make.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])


def build_loss(
    name: str,
    *,
    learner_shape: Shape | Sequence[Shape] | None = None,
    source_shape: Shape | Sequence[Shape] | None = None,
    from_model: dict[str, Any] | None = None,
    **arguments: Any,
) -> Loss:
    """Returns the loss called `name` in recipes; `arguments` are those of its section in a recipe.

    Args:
        name: as in a recipe's objectives.
        learner_shape: shape of the learner's output without the batch dimension (of each, where the loss reads several); losses with a
            trainable part need it.
        source_shape: the same of the source's output.
        from_model: what the definition's `from_model` returned.
        arguments: the loss's own.

    Raises:
        ValueError: no such loss, no such argument, a value out of range, or shapes that do not fit; one line says which.
    """
    if name not in LOSSES:
        raise ValueError(f"{name!r} is no loss{did_you_mean(name, LOSSES)}")
    given = check_section(OBJECTIVES[name], {"loss": name, **arguments}).loss_arguments()
    definition = LOSSES[name]
    shapes = learner_shape, source_shape
    if definition.trained:
        if learner_shape is None or source_shape is None:
            raise ValueError(f"{name} has a trainable part: give learner_shape and source_shape, without the batch dimension")
        return Loss(definition, given, definition.make(*map(_plain, shapes), **given, **(from_model or {})))
    if learner_shape is not None and source_shape is not None:
        definition.check(*map(_plain, shapes))
    return Loss(definition, given)


def _plain(shape: Any) -> Any:
    """Returns a shape as a tuple, and a list of shapes as a list of tuples."""
    return [tuple(each) for each in shape] if shape and not isinstance(shape[0], int) else tuple(shape)


def _exact(output: Output) -> Output:
    if isinstance(output, list):
        return [_at_least_float32(each) for each in output]
    return _at_least_float32(output)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _device_type(output: Output) -> str:
    return (output[0] if isinstance(output, list) else output).device.type


def _classes(labels: Tensor) -> Tensor:
    return labels.argmax(dim=1) if labels.is_floating_point() else labels
