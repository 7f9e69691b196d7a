"""build_loss: a loss by its name, as a module `loss(learner, source, labels) -> scalar`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mutual.objectives import adapters, attention, contrast, feature, relation, response
from mutual.objectives.shapes import Shape
from mutual.objectives.spec import LossSpec, SourcePayload
from mutual.recipe import OBJECTIVES, check_section, did_you_mean

Output = Tensor | list[Tensor]
"""What a loss reads of one end: one output `[B, ...]`, or several for a loss with `multi_output`."""


def merge_tables(*tables: Mapping[str, LossSpec]) -> dict[str, LossSpec]:
    """Returns the losses of all `tables`, no two of which may share a name."""
    merged: dict[str, LossSpec] = {}
    for name, spec in (entry for table in tables for entry in table.items()):
        assert name not in merged, f"two losses are called {name!r}"
        merged[name] = spec
    return merged


LOSSES = merge_tables(response.LOSSES, feature.LOSSES, adapters.LOSSES, attention.LOSSES, contrast.LOSSES, relation.LOSSES)


class Loss(nn.Module):
    """One end-to-end rule for all losses: the source is detached, and the mathematics runs in float32 at least.

    Attributes:
        loss_spec: what the loss reads.
        arguments: those of its section in a recipe.
        adapter: its trainable part, or None.
    """

    def __init__(self, loss_spec: LossSpec, arguments: dict[str, Any], adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.loss_spec = loss_spec
        self.arguments = arguments
        self.adapter = adapter

    def forward(
        self,
        learner: Output,
        source: Output | None = None,
        labels: Tensor | None = None,
        *,
        row_offset: int = 0,
        num_rows: int | None = None,
        source_is_distances: bool = False,
    ) -> Tensor:
        """Returns the scalar loss of `learner` `[B, ...]`; what the loss does not read may be None.

        Where the loss gathers, `source` and `labels` are those of all processes, and the learner's rows begin at `row_offset`; where it
        gathers the learner's as well, `num_rows` of them are this process' own, by default all. With `source_is_distances`, the source of
        a loss that reads distances alone is these, `[B, B]`.
        """
        spec = self.loss_spec
        values: dict[str, Any] = {"learner": upcast(learner), "labels": labels, "row_offset": row_offset}
        values["num_rows"] = len(learner) if num_rows is None else num_rows
        with torch.autocast(_device_type(learner), enabled=False):
            if spec.reads_source:
                assert source is not None, "this loss reads a source"
                values["source"] = _in_dtype_of(values["learner"], _detach(source))
                if spec.payload is SourcePayload.DISTANCES and not source_is_distances:
                    values["source"] = relation.distances(values["source"])
            if spec.reads_labels:
                assert labels is not None, "this loss reads labels"
                values["classes"] = class_indices(labels) if "classes" in spec.inputs else None
            inputs = [values[name] for name in spec.inputs]
            loss: Tensor = self.adapter(*inputs) if self.adapter is not None else spec.function(*inputs, **self.arguments)
        return loss

    def extra_repr(self) -> str:
        """Returns what `print(loss)` shows."""
        return ", ".join([self.loss_spec.function.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])


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
        from_model: what the LossSpec's `from_model` returned.
        arguments: the loss's own.

    Raises:
        ValueError: no such loss, no such argument, a value out of range, or shapes that do not fit; one line says which.

    Example:
        >>> loss = build_loss("kd", temperature=2.0)
        >>> loss(torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
        tensor(0.0603)
        >>> hint = build_loss("hint", learner_shape=(16,), source_shape=(32,))
        >>> hint(torch.zeros(2, 16), torch.zeros(2, 32)).shape
        torch.Size([])
    """
    if name not in LOSSES:
        raise ValueError(f"{name!r} is no loss{did_you_mean(name, LOSSES)}")
    spec = LOSSES[name]
    arguments = check_section(OBJECTIVES[name], {"loss": name, **arguments}).loss_arguments()
    if spec.has_adapter:
        if learner_shape is None or source_shape is None:
            raise ValueError(f"{name} has a trainable part: give learner_shape and source_shape, without the batch dimension")
        adapter = spec.function(_to_tuple(learner_shape), _to_tuple(source_shape), **arguments, **(from_model or {}))
        return Loss(spec, arguments, adapter)
    if learner_shape is not None and source_shape is not None:
        spec.check(_to_tuple(learner_shape), _to_tuple(source_shape))
    return Loss(spec, arguments)


def class_indices(labels: Tensor) -> Tensor:
    """Returns class indices `[B]` of labels: themselves, or the likeliest class of probabilities `[B, C]`."""
    return labels.argmax(dim=1) if labels.is_floating_point() else labels


def upcast(output: Output) -> Output:
    """Returns `output` in float32, or as it is where it is more precise."""
    if isinstance(output, list):
        return [_at_least_float32(each) for each in output]
    return _at_least_float32(output)


def _in_dtype_of(learner: Output, source: Output) -> Output:
    """Returns the source's output in the dtype of the learner's: torch 2.6 has no gradients of losses between two."""
    dtype = (learner[0] if isinstance(learner, list) else learner).dtype
    return [each.to(dtype) for each in source] if isinstance(source, list) else source.to(dtype)


def _detach(output: Output) -> Output:
    return [each.detach() for each in output] if isinstance(output, list) else output.detach()


def _to_tuple(shape: Any) -> Any:
    """Returns a shape as a tuple, and a list of shapes as a list of tuples."""
    return [tuple(each) for each in shape] if shape and not isinstance(shape[0], int) else tuple(shape)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _device_type(output: Output) -> str:
    return (output[0] if isinstance(output, list) else output).device.type
