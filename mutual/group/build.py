"""build_group: a recipe's peers with their weights and taps, and the edges between them, checked by one dry forward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from mutual.group.edges import Edge, expand, tap_paths
from mutual.group.group import Group
from mutual.group.peers import MovingAverage, Peer
from mutual.group.taps import Outputs, TappedModel, find_module
from mutual.group.world import World
from mutual.models import create_model, load_weights
from mutual.recipe import LOGITS, Recipe, derive_seed


def build_group(
    recipe: Recipe,
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    world: World,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Group:
    """Builds every peer on `world.device` and the edges between them.

    Raises:
        RecipeError: a model, its arguments, its weights file, a module path or a shape is wrong.
    """
    edges = expand(recipe)
    peers = [_build_peer(recipe, name, edges, num_classes=num_classes, in_channels=in_channels) for name in recipe.peers]
    _check_shapes(recipe, peers, edges, torch.zeros(2, in_channels, *image_size), num_classes)
    for peer in peers:
        _place(peer, recipe, world)
    return Group(peers, edges, autocast=autocast)


def create_peer_model(recipe: Recipe, name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """Returns the bare model of peer `name` with its initial weights, which depend on the recipe's seed and on `name` alone."""
    spec = recipe.peers[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "weights", name))
        pretrained = spec.weights if spec.weights == "pretrained" else None
        try:
            model = create_model(spec.model, **{"num_classes": num_classes, "in_channels": in_channels, "weights": pretrained, **spec.args})
        except ValueError as error:
            raise recipe.error(f"peers.{name}.model", str(error)) from error
    if spec.weights is not None and pretrained is None:
        try:
            load_weights(model, spec.weights)
        except ValueError as error:
            raise recipe.error(f"peers.{name}.weights", str(error)) from error
    return model


def _build_peer(recipe: Recipe, name: str, edges: list[Edge], *, num_classes: int, in_channels: int) -> Peer:
    spec = recipe.peers[name]
    model = create_peer_model(recipe, name, num_classes=num_classes, in_channels=in_channels)
    for edge in edges:
        for end, at in ((edge.learner, edge.learner_at), (edge.source, edge.source_at)):
            if end == name and at != LOGITS:
                _check_path(recipe, model, name, edge, at)
    if recipe.train.sync_batchnorm and not spec.frozen:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    decay = recipe.train.ema
    average = None if decay is None or spec.frozen else MovingAverage(model, decay=decay)
    return Peer(name, TappedModel(model, tap_paths(edges, name)), frozen=spec.frozen, average=average)


def _check_path(recipe: Recipe, model: nn.Module, name: str, edge: Edge, at: str) -> None:
    try:
        find_module(model, at)
    except ValueError as error:
        raise recipe.error(f"objectives.{edge.index}.at", f"peer {name!r} ({recipe.peers[name].model}) has {error}") from error


def _check_shapes(recipe: Recipe, peers: list[Peer], edges: list[Edge], images: Tensor, num_classes: int) -> None:
    outputs = {peer.name: _dry_forward(recipe, peer, images) for peer in peers}
    for name, output in outputs.items():
        found = tuple(output[LOGITS].shape)
        if found != (2, num_classes):
            raise recipe.error(
                f"peers.{name}.model",
                f"class counts differ: {recipe.peers[name].model} gives logits of shape {found[1:]}, the data have {num_classes} classes",
            )
    for edge in edges:
        if edge.source is None or not edge.loss.definition.same_shape:
            continue
        learner, source = (
            tuple(outputs[end][at].shape[1:]) for end, at in ((edge.learner, edge.learner_at), (edge.source, edge.source_at))
        )
        if learner != source:
            raise recipe.error(
                f"objectives.{edge.index}.at",
                f"{edge.learner}.{edge.learner_at} has shape {learner} and {edge.source}.{edge.source_at} has shape {source}; "
                f"{edge.objective} needs equal shapes: take outputs that agree, or a loss with a regressor (hint)",
            )


def _dry_forward(recipe: Recipe, peer: Peer, images: Tensor) -> Outputs:
    peer.tapped.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            said: dict[str, object] = peer.tapped(images)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            size = "x".join(str(side) for side in images.shape[1:])
            raise recipe.error(
                f"peers.{peer.name}.model", f"{recipe.peers[peer.name].model} cannot take images of {size}: {reason}"
            ) from error
    outputs: Outputs = {}
    for at, output in said.items():
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise recipe.error(f"peers.{peer.name}.model", f"output {at!r} of {recipe.peers[peer.name].model} is a {kind}, not a tensor")
        outputs[at] = output
    return outputs


def _place(peer: Peer, recipe: Recipe, world: World) -> None:
    train = recipe.train
    modules = [peer.tapped] if peer.average is None else [peer.tapped, peer.average.model]
    for module in modules:
        module.to(world.device)
        if train.channels_last:
            module.to(memory_format=torch.channels_last)
    if train.compile:
        peer.tapped.compile()
    peer.distribute(world)
