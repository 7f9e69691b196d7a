"""build_group: a recipe's peers with their weights and taps, and the edges between them, checked by one dry forward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from mutual.group.edges import Edge, definition_of, expand, tap_paths
from mutual.group.group import Group
from mutual.group.lessons import Lesson
from mutual.group.peers import MovingAverage, Peer
from mutual.group.schedules import weight_factor
from mutual.group.taps import Outputs, TappedModel, find_module
from mutual.group.world import World
from mutual.models import create_model, load_weights
from mutual.objectives import Loss, build_loss
from mutual.recipe import EMA, ENSEMBLE, LOGITS, Recipe, derive_seed, peer_of


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
    said = _dry_run(recipe, peers, torch.zeros(2, in_channels, *image_size), num_classes)
    losses = [_build_loss(recipe, edge, {peer.name: peer for peer in peers}, said) for edge in edges]
    for peer in peers:
        _place(peer, recipe, world)
    unlabelled = recipe.data.unlabelled is not None
    lessons = [
        Lesson(edge, loss, weight_factor(edge.spec, epochs=recipe.train.epochs), world=world, unlabelled=unlabelled)
        for edge, loss in zip(edges, losses, strict=True)
    ]
    return Group(peers, lessons, autocast=autocast)


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
    paths, average_paths = tap_paths(edges, name), tap_paths(edges, f"{name}.{EMA}")
    _check_paths(recipe, model, name, edges)
    if recipe.train.sync_batchnorm and not spec.frozen:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    train = recipe.train
    average = None
    if train.ema is not None and not spec.frozen:
        average = MovingAverage(model, decay=train.ema, warmup=train.ema_warmup, paths=average_paths)
    return Peer(name, TappedModel(model, paths), frozen=spec.frozen, average=average, score_average=train.evaluate_ema)


def _check_paths(recipe: Recipe, model: nn.Module, name: str, edges: list[Edge]) -> None:
    for edge in edges:
        mine = edge.learner_at if edge.learner == name else ()
        theirs = [path for source, paths in zip(edge.sources, edge.source_at, strict=True) if peer_of(source) == name for path in paths]
        for at in (*mine, *theirs):
            try:
                if at != LOGITS:
                    find_module(model, at)
            except ValueError as error:
                raise recipe.error(f"objectives.{edge.index}.at", f"peer {name!r} ({recipe.peers[name].model}) has {error}") from error


def _dry_run(recipe: Recipe, peers: list[Peer], images: Tensor, num_classes: int) -> dict[str, Outputs]:
    """Returns what every peer and every moving average says of `images`, checked for the classes."""
    said = {}
    for peer in peers:
        said[peer.name] = _dry_forward(recipe, peer, peer.tapped, images)
        if peer.average is not None:
            said[f"{peer.name}.{EMA}"] = _dry_forward(recipe, peer, peer.average.tapped, images)
        found = tuple(said[peer.name][LOGITS].shape)
        if found != (2, num_classes):
            model = recipe.peers[peer.name].model
            raise recipe.error(
                f"peers.{peer.name}.model",
                f"class counts differ: {model} gives logits of shape {found[1:]}, the data have {num_classes} classes",
            )
    return said


def _build_loss(recipe: Recipe, edge: Edge, peers: dict[str, Peer], said: dict[str, Outputs]) -> Loss:
    """Returns the edge's loss for the shapes that were found; its trainable part stands in the learner's module from then on."""
    definition, arguments = definition_of(edge), edge.spec.loss_arguments()
    mine = [said[edge.learner][at] for at in edge.learner_at]
    theirs = [
        said[edge.members[0] if source == ENSEMBLE else source][at]
        for source, paths in zip(edge.sources, edge.source_at, strict=True)
        for at in paths
    ]
    shapes = [[tuple(output.shape[1:]) for output in outputs] for outputs in (mine, theirs)]
    if not theirs and shapes[0][0] != tuple(said[edge.learner][LOGITS].shape[1:]):
        raise recipe.error(
            f"objectives.{edge.index}.at", f"{edge.learner}.{edge.learner_at[0]} has shape {shapes[0][0]}, which are no logits"
        )
    learner_shape, source_shape = (found if definition.many else found[0] if found else None for found in shapes)
    seed = derive_seed(recipe.seed, "adapter", edge.index, edge.learner, edge.source or "", *edge.learner_at)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            told = None
            if definition.from_model is not None:
                told = definition.from_model(peers[peer_of(edge.sources[0])].model, list(edge.source_at[0]))
            loss = build_loss(edge.spec.loss, learner_shape=learner_shape, source_shape=source_shape, from_model=told, **arguments)
    except ValueError as error:
        raise recipe.error(f"objectives.{edge.index}.at", f"{_shapes_of(edge, shapes)}; {edge.objective} {error}") from error
    if definition.trained:
        if recipe.train.sync_batchnorm:
            loss = nn.SyncBatchNorm.convert_sync_batchnorm(loss)
        adapters = peers[edge.learner].tapped.adapters
        adapters[f"{edge.index}_{len(adapters)}"] = loss.to(torch.promote_types(torch.float32, mine[0].dtype))
    return loss


def _shapes_of(edge: Edge, shapes: list[list[tuple[int, ...]]]) -> str:
    ends = [(edge.learner, at) for at in edge.learner_at]
    ends += [(source, at) for source, paths in zip(edge.sources, edge.source_at, strict=True) for at in paths]
    return " and ".join(f"{name}.{at} has shape {shape}" for (name, at), shape in zip(ends, [*shapes[0], *shapes[1]], strict=True))


def _dry_forward(recipe: Recipe, peer: Peer, tapped: TappedModel, images: Tensor) -> Outputs:
    tapped.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            said: dict[str, object] = dict(tapped.probe(images))
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
    modules = [peer.tapped] if peer.average is None else [peer.tapped, peer.average.tapped]
    for module in modules:
        module.to(world.device)
        if train.channels_last:
            module.to(memory_format=torch.channels_last)
    if train.compile:
        peer.tapped.compile()
    peer.distribute(world)
