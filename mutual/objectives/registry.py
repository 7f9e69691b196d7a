"""build_loss: a loss by its name, as a module `loss(learner, source, labels) -> scalar`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mutual.objectives import adapters, attention, contrast, feature, relation, response
from mutual.objectives.own import import_loss
from mutual.objectives.precision import in_full_precision, upcast
from mutual.objectives.predictions import Predictions
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
        self._on_device: dict[tuple[torch.device, torch.dtype], dict[str, Any]] = {}

    def forward(
        self,
        learner: Output,
        source: Output | None = None,
        labels: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        row_offset: int = 0,
        num_rows: int | None = None,
        source_is_distances: bool = False,
    ) -> Tensor:
        """Returns the scalar loss of `learner` `[B, ...]`, the mean over its images; what the loss does not read may be None.

        Images that `mask` `[B]` does not select have a loss of 0. Where the loss gathers, `source`, `labels` and `mask` are those of all
        processes, and the learner's rows begin at `row_offset`; where it gathers the learner's as well, `num_rows` of them are this
        process' own, by default all. With `source_is_distances`, the source of a loss that reads distances alone is these, `[B, B]`.
        """
        num_rows = _num_rows(learner) if num_rows is None else num_rows
        own_mask = mask if mask is None or not self.loss_spec.gathers else mask[row_offset : row_offset + num_rows]
        loss = self.compute(
            learner, source, labels, mask=mask, row_offset=row_offset, num_rows=num_rows, source_is_distances=source_is_distances
        )
        return self._mean(loss, own_mask)

    def compute(
        self,
        learner: Output,
        source: Output | None = None,
        labels: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        row_offset: int = 0,
        num_rows: int | None = None,
        source_is_distances: bool = False,
    ) -> Tensor:
        """Returns what the loss's function or module gives for what `forward` is given: `[B]`, or one value."""
        spec = self.loss_spec
        num_rows = _num_rows(learner) if num_rows is None else num_rows
        values: dict[str, Any] = {"learner": learner, "labels": labels, "row_offset": row_offset, "num_rows": num_rows, "mask": mask}
        if spec.reads_source:
            assert source is not None, "this loss reads a source"
            values["source"] = source = _detach(source)
            if spec.payload is SourcePayload.DISTANCES and not source_is_distances:
                assert isinstance(source, Tensor), "distances are read at one output"
                values["source"] = in_full_precision(relation.distances)(source)
        if spec.reads_labels:
            assert labels is not None, "this loss reads labels"
            values["classes"] = class_indices(labels) if "classes" in spec.inputs else None
        if self.adapter is None or not torch.is_autocast_enabled(_device_type(learner)):
            values["learner"] = upcast(learner)
            if spec.reads_source:
                values["source"] = _in_dtype_of(values["learner"], values["source"])
        if spec.on_logits:
            values |= {end: Predictions(values[end]) for end in ("learner", "source") if end in values}
        return self._call(values, device_type=_device_type(learner))

    def pairs(self, learner: Predictions, source: Predictions | None, labels: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the losses `[...]` of a loss on logits for pairs of predictions `[..., B, C]`, each the mean over the images.

        Args:
            learner: of the learners.
            source: of the sources, detached and in the same dtype; None where there is none.
            labels: as in `forward`, of all pairs.
            mask: `[..., B]`, True for the images that count; None: all.
        """
        classes = class_indices(labels) if "classes" in self.loss_spec.inputs else None
        values = {"learner": learner, "source": source, "labels": labels, "classes": classes, "mask": mask}
        return self._mean(self._call(values, device_type=learner.logits.device.type), mask)

    def _call(self, values: Mapping[str, Any], *, device_type: str) -> Tensor:
        """Returns what the loss gives for `values`."""
        spec = self.loss_spec
        inputs = [values[name] for name in spec.inputs]
        if self.adapter is not None:  # runs as the peers do, and compares in full precision by itself
            loss: Tensor = self.adapter(*inputs)
        else:
            with torch.autocast(device_type, enabled=False):
                loss = spec.function(*inputs, **self._arguments_beside(inputs[0]))
        return loss

    def _mean(self, loss: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the mean over the images of what the loss gives; of those that `mask` does not select it is 0."""
        spec = self.loss_spec
        per_image = loss.dim() > 0 if spec.per_image is None else spec.per_image
        if per_image:
            return (loss if mask is None else torch.where(mask, loss, 0.0)).mean(dim=-1)
        return loss if mask is None else loss * mask.to(loss.dtype).mean(dim=-1)

    def _arguments_beside(self, learner: Any) -> dict[str, Any]:
        """Returns the arguments, numbers of the classes as a tensor beside the learner's logits, which is made once."""
        if not isinstance(learner, Predictions):
            return self.arguments
        key = learner.logits.device, learner.logits.dtype
        if key not in self._on_device:
            self._on_device[key] = {
                name: torch.tensor(value, device=key[0], dtype=key[1]) if isinstance(value, list) else value
                for name, value in self.arguments.items()
            }
        return self._on_device[key]

    def extra_repr(self) -> str:
        """Returns what `print(loss)` shows."""
        name = getattr(self.loss_spec.function, "__name__", type(self.loss_spec.function).__name__)  # a partial has none
        return ", ".join([name, *(f"{key}={value}" for key, value in self.arguments.items())])


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
        name: as in a recipe's objectives; `package.module:name` is code of yours, which is imported.
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
    if ":" in name:
        return _build_users_loss(name, learner_shape, source_shape, arguments)
    if name not in LOSSES:
        raise ValueError(f"{name!r} is no loss{did_you_mean(name, LOSSES)}")
    spec = LOSSES[name]
    arguments = check_section(OBJECTIVES[name], {"loss": name, **arguments}).loss_arguments()
    for key, value in arguments.items():
        if value in ("balanced", "data"):
            raise ValueError(f"{key}: {value!r} is for a recipe, whose data say how frequent classes are; give a number for each class")
    if spec.has_adapter:
        if learner_shape is None or source_shape is None:
            raise ValueError(f"{name} has a trainable part: give learner_shape and source_shape, without the batch dimension")
        adapter = spec.function(_to_tuple(learner_shape), _to_tuple(source_shape), **arguments, **(from_model or {}))
        return Loss(spec, arguments, adapter)
    if learner_shape is not None and source_shape is not None:
        spec.check(_to_tuple(learner_shape), _to_tuple(source_shape))
    return Loss(spec, arguments)


def spec_of(name: str) -> LossSpec:
    """Returns what the loss called `name` in recipes reads; imports one of the user's own.

    Raises:
        ValueError: there is no such loss.
    """
    return import_loss(name).spec if ":" in name else LOSSES[name]


def _build_users_loss(name: str, learner_shape: Any, source_shape: Any, arguments: dict[str, Any]) -> Loss:
    """Returns a loss of the user's own; its arguments are those of its function or class."""
    users = import_loss(name)
    spec = users.spec
    shapes = {"learner_shape": learner_shape, **({"source_shape": source_shape} if spec.reads_source else {})}
    if spec.has_adapter and None in shapes.values():
        raise ValueError(f"{name} has a trainable part: give {' and '.join(shapes)}, without the batch dimension")
    if None not in shapes.values():
        shapes = {key: _to_tuple(shape) for key, shape in shapes.items()}
        learner, source = shapes["learner_shape"], shapes.get("source_shape", shapes["learner_shape"])
        for ends in zip(learner, source, strict=False) if spec.multi_output else [(learner, source)]:
            spec.check(*ends)
    if spec.has_adapter:
        return Loss(spec, arguments, users.build_adapter(arguments, learner_shape=learner, source_shape=shapes.get("source_shape")))
    users.check_arguments(arguments)
    return Loss(spec, arguments)


def class_indices(labels: Tensor) -> Tensor:
    """Returns class indices `[B]` of labels: themselves, or the likeliest class of probabilities `[B, C]`."""
    return labels.argmax(dim=1) if labels.is_floating_point() else labels


def _in_dtype_of(learner: Output, source: Output) -> Output:
    """Returns the source's output in the dtype of the learner's: torch 2.6 has no gradients of losses between two."""
    dtype = (learner[0] if isinstance(learner, list) else learner).dtype
    return [each.to(dtype) for each in source] if isinstance(source, list) else source.to(dtype)


def _detach(output: Output) -> Output:
    return [each.detach() for each in output] if isinstance(output, list) else output.detach()


def _to_tuple(shape: Any) -> Any:
    """Returns a shape as a tuple, and a list of shapes as a list of tuples."""
    return [tuple(each) for each in shape] if shape and not isinstance(shape[0], int) else tuple(shape)


def _num_rows(output: Output) -> int:
    return len(output[0] if isinstance(output, list) else output)


def _device_type(output: Output) -> str:
    return (output[0] if isinstance(output, list) else output).device.type
