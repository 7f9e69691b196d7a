"""Fitting: an edge's loss for the shapes of the outputs that it reads, wherever their peers are held."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mutual.group.edges import Edge, OutputKey, TensorSpec
from mutual.group.peers import Outputs, Peer
from mutual.objectives import Loss, build_loss
from mutual.recipe import ENSEMBLE, LOGITS, Recipe, derive_seed


def output_specs(said: dict[str, Outputs]) -> list[Any]:
    """Returns the form of every output as JSON: source, output, shape without the batch dimension, precision."""
    return [
        [name, path, list(output.shape[1:]), str(output.dtype).removeprefix("torch.")]
        for name, outputs in said.items()
        for path, output in outputs.items()
    ]


def parse_output_specs(specs: list[Any]) -> dict[OutputKey, TensorSpec]:
    """Returns by source and output the forms that `output_specs` wrote."""
    return {(name, path): (tuple(shape), getattr(torch, dtype)) for name, path, shape, dtype in specs}


def build_edge_loss(
    recipe: Recipe,
    edge: Edge,
    learner: Peer,
    specs: dict[OutputKey, TensorSpec],
    told: dict[str, list[list[float]]] | None,
    *,
    synchronized: bool = False,
) -> Loss:
    """Returns the edge's loss for the shapes that were found; its trainable part stands in the learner's module from then on.

    `told` is what the loss must know of its source's model; `synchronized`: BatchNorm statistics are those of several processes.

    Raises:
        RecipeError: the shapes cannot meet; one line says both.
    """
    definition, arguments = edge.loss_spec, edge.spec.loss_arguments()
    mine = [specs[edge.learner, at][0] for at in edge.learner_at]
    theirs = [
        specs[edge.members[0] if source == ENSEMBLE else source, at][0]
        for source, paths in zip(edge.sources, edge.source_at, strict=True)
        for at in paths
    ]
    if not theirs and mine[0] != specs[edge.learner, LOGITS][0]:
        raise recipe.error(f"objectives.{edge.index}.at", f"{edge.learner}.{edge.learner_at[0]} has shape {mine[0]}, which are no logits")
    learner_shape, source_shape = (found if definition.multi_output else found[0] if found else None for found in (mine, theirs))
    from_model = None if told is None else {key: [torch.tensor(values) for values in lists] for key, lists in told.items()}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(recipe.seed, "adapter", edge.index, edge.learner, edge.source or "", *edge.learner_at))
            loss = build_loss(edge.spec.loss, learner_shape=learner_shape, source_shape=source_shape, from_model=from_model, **arguments)
    except ValueError as error:
        raise recipe.error(f"objectives.{edge.index}.at", f"{_shapes_of(edge, [mine, theirs])}; {edge.objective} {error}") from error
    if definition.has_adapter:
        if synchronized:
            loss = nn.SyncBatchNorm.convert_sync_batchnorm(loss)
        adapters = learner.tapped.adapters
        adapters[f"{edge.index}_{len(adapters)}"] = loss.to(torch.promote_types(torch.float32, specs[edge.learner, edge.learner_at[0]][1]))
    return loss


def _shapes_of(edge: Edge, shapes: list[list[tuple[int, ...]]]) -> str:
    ends = [(edge.learner, at) for at in edge.learner_at]
    ends += [(source, at) for source, paths in zip(edge.sources, edge.source_at, strict=True) for at in paths]
    return " and ".join(f"{name}.{at} has shape {shape}" for (name, at), shape in zip(ends, [*shapes[0], *shapes[1]], strict=True))
