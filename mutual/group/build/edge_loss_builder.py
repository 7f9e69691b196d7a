"""build_edge_loss: an edge's loss for the shapes of the outputs that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mutual.group.build.loss_trial import try_loss
from mutual.group.edges import CommonClasses, Edge, OutputKey, TensorSpec
from mutual.group.peers import Outputs, seed_generators
from mutual.objectives import Loss, build_loss
from mutual.recipe import ENSEMBLE, LOGITS, OwnLoss, Recipe, RecipeError, derive_seed, peer_of


def output_specs(outputs_by_peer: dict[str, Outputs]) -> list[Any]:
    """Returns a JSON value for each output: peer, module path, shape without the batch dimension, dtype."""
    return [
        [name, path, list(output.shape[1:]), str(output.dtype).removeprefix("torch.")]
        for name, outputs in outputs_by_peer.items()
        for path, output in outputs.items()
    ]


def parse_output_specs(specs: list[Any]) -> dict[OutputKey, TensorSpec]:
    """Returns what `output_specs` described."""
    return {OutputKey(name, path): (tuple(shape), getattr(torch, dtype)) for name, path, shape, dtype in specs}


def source_statistics(recipe: Recipe, edges: Sequence[Edge], models: Mapping[str, nn.Module]) -> dict[str, dict[str, list[list[float]]]]:
    """Returns by the edge's index what a loss must know of its source's model, for the sources in `models`.

    Raises:
        RecipeError: the model has nothing of the kind.
    """
    statistics = {}
    for index, edge in enumerate(edges):
        from_model, source = edge.loss_spec.from_model, peer_of(edge.sources[0]) if edge.sources else ""
        if from_model is not None and source in models:
            try:
                tensors_by_name = from_model(models[source], list(edge.source_at[0]))
            except ValueError as error:
                raise recipe.error(f"objectives.{edge.objective_index}.at", str(error)) from error
            statistics[str(index)] = {name: [tensor.tolist() for tensor in tensors] for name, tensors in tensors_by_name.items()}
    return statistics


def build_edge_loss(
    recipe: Recipe,
    edge: Edge,
    adapters: nn.ModuleDict,
    specs: dict[OutputKey, TensorSpec],
    statistics: dict[str, list[list[float]]] | None,
    notes: list[str],
    *,
    num_processes: int = 1,
    synchronized: bool = False,
    classes: CommonClasses | None = None,
) -> Loss:
    """Returns the loss of an edge, and adds its trainable part to `adapters`.

    Args:
        recipe: says where an error is.
        edge: the edge.
        adapters: those of its learner.
        specs: shape and dtype of every output.
        statistics: what the loss must know of its source's model.
        notes: lines for the user are added.
        num_processes: number of processes that train the learner.
        synchronized: adapters synchronise BatchNorm statistics over the learner's processes.
        classes: those in common of learner and sources, where these are not all.

    Raises:
        RecipeError: the shapes do not fit.
    """
    loss_spec, arguments = edge.loss_spec, edge.objective.loss_arguments()
    learner_shapes, source_shapes = _shapes_of(edge, specs, classes)
    if not source_shapes and loss_spec.on_logits and learner_shapes[0] != specs[OutputKey(edge.learner, LOGITS)][0]:
        raise recipe.error(
            f"objectives.{edge.objective_index}.at",
            f"{edge.learner}.{edge.learner_at[0]} has shape {learner_shapes[0]}, which are no logits",
        )
    learner_shape, source_shape = (
        shapes if loss_spec.multi_output else shapes[0] if shapes else None for shapes in (learner_shapes, source_shapes)
    )
    from_model = None if statistics is None else {key: [torch.tensor(values) for values in lists] for key, lists in statistics.items()}
    try:
        with torch.random.fork_rng(devices=[]):
            seed = derive_seed(recipe.seed, "adapter", edge.objective_index, edge.learner, edge.source or "", *edge.learner_at)
            seed_generators(seed, torch.device("cpu"))
            loss = build_loss(
                edge.objective.loss, learner_shape=learner_shape, source_shape=source_shape, from_model=from_model, **arguments
            )
    except ValueError as error:
        raise _refusal(recipe, edge, [*learner_shapes, *source_shapes], error) from error
    dtype = torch.promote_types(torch.float32, specs[OutputKey(edge.learner, edge.learner_at[0])][1])
    if isinstance(edge.objective, OwnLoss):
        notes += try_loss(recipe, edge, loss.to(dtype), specs, classes, num_processes=num_processes)
    if loss_spec.has_adapter:
        loss = (nn.SyncBatchNorm.convert_sync_batchnorm(loss) if synchronized else loss).to(dtype)
        adapters[f"{edge.objective_index}_{len(adapters)}"] = loss
    return loss


def _shapes_of(
    edge: Edge, specs: dict[OutputKey, TensorSpec], classes: CommonClasses | None
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Returns the shapes, without the batch dimension, of the outputs that the edge reads of its learner, and of its sources."""

    def shape(peer: str, at: str) -> tuple[int, ...]:
        return (len(classes.classes),) if classes is not None and at == LOGITS else specs[OutputKey(peer, at)][0]

    learner_shapes = [shape(edge.learner, at) for at in edge.learner_at]
    source_shapes = [
        shape(edge.members[0] if source == ENSEMBLE else source, at)
        for source, paths in zip(edge.sources, edge.source_at, strict=True)
        for at in paths
    ]
    return learner_shapes, source_shapes


def _refusal(recipe: Recipe, edge: Edge, shapes: list[tuple[int, ...]], error: ValueError) -> RecipeError:
    """Returns what says that a loss cannot be built: of a loss of the user's own that names itself, no matter of shapes."""
    where = f"objectives.{edge.objective_index}"
    if isinstance(edge.objective, OwnLoss) and edge.objective.loss in str(error):
        return recipe.error(f"{where}.loss", str(error))
    return recipe.error(f"{where}.at", f"{_describe_shapes(edge, shapes)}; {edge.name} {error}")


def _describe_shapes(edge: Edge, shapes: list[tuple[int, ...]]) -> str:
    outputs = [(edge.learner, at) for at in edge.learner_at]
    outputs += [(source, at) for source, paths in zip(edge.sources, edge.source_at, strict=True) for at in paths]
    return " and ".join(f"{name}.{at} has shape {shape}" for (name, at), shape in zip(outputs, shapes, strict=True))
