"""build_group: a recipe's peers with their weights and taps, and the edges between them, checked by a dry run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from mutual.group.build.dry_run import dry_run
from mutual.group.build.edge_loss_builder import build_edge_loss, output_specs, parse_output_specs
from mutual.group.communication import Communicator
from mutual.group.edges import Edge, EdgeLoss, OutputKey, TensorSpec, expand_objectives, tap_paths, weight_factor
from mutual.group.exchange import OutputExchange, Placement, TransferPlan, parallel, replicated, scoring_requirements
from mutual.group.group import Group
from mutual.group.peers import Autocast, FrozenSettings, MovingAverage, Peer, TappedModel, find_module
from mutual.models import class_columns, create_model, load_weights, read_card
from mutual.objectives import Loss
from mutual.recipe import EMA, LOGITS, PeerSpec, Recipe, derive_seed, peer_of


def build_group(
    recipe: Recipe,
    comm: Communicator,
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    autocast: Autocast = nullcontext,
    class_names: Sequence[str] = (),
) -> Group:
    """Builds the peers that this process holds, and the edges by which they learn.

    Collective: all ranks must call it.

    Args:
        recipe: the peers and objectives.
        comm: all processes; the peers are put on its device.
        num_classes: classes of the data.
        in_channels: channels of the images.
        image_size: height and width of the images.
        autocast: gives the context in which peers run, or in another precision if one is given.
        class_names: the data's classes; if given, the outputs of a frozen peer whose weights name their classes are read in this order.

    Raises:
        RecipeError: a model, its arguments, its weights file, a module path or a shape is wrong; on all ranks alike.
    """
    edges = expand_objectives(recipe)
    data = _DataSpec(num_classes, tuple(class_names), torch.zeros(2, in_channels, *image_size))
    placement = _place_peers(recipe, comm.size)
    peers, specs = _build_peers(recipe, edges, comm, placement, data)
    losses = _build_losses(recipe, edges, comm, placement, peers, specs)  # before their adapters are moved with the peers
    trained = [name for name in recipe.peers if not recipe.peers[name].frozen]
    comms = dict(zip(trained, comm.split([placement.replica_ranks[name] for name in trained]), strict=True))
    for peer in peers.values():
        _set_up(peer, recipe, comm.device, comms.get(peer.name))
    loss_plan = TransferPlan.of(placement, edges, specs, dtype=recipe.exchange.dtype)

    @cache
    def score_exchange(names: tuple[str, ...]) -> OutputExchange:
        return OutputExchange(TransferPlan(placement, scoring_requirements(placement, names), specs), comm)

    return Group(
        peers,
        edges,
        {index: _edge_loss(recipe, edges[index], loss, comms[edges[index].learner]) for index, loss in losses.items()},
        autocast=autocast,
        placement=placement,
        rank=comm.rank,
        loss_exchange=OutputExchange(loss_plan, comm),
        score_exchange=score_exchange,
        split_peers=loss_plan.split_peers,
    )


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


@dataclass(frozen=True)
class _DataSpec:
    """What peers are built for; `images` `[2, C, H, W]` are what a dry run gives them."""

    num_classes: int
    class_names: tuple[str, ...]
    images: Tensor


def _place_peers(recipe: Recipe, world_size: int) -> Placement:
    """Returns which ranks hold which peers; a peer without a cost in the recipe costs 1."""
    if recipe.placement != "parallel" or world_size == 1:
        return replicated(recipe, world_size)
    return parallel(recipe, world_size, {name: peer.cost or 1.0 for name, peer in recipe.peers.items()})


def _build_peers(
    recipe: Recipe, edges: list[Edge], comm: Communicator, placement: Placement, data: _DataSpec
) -> tuple[dict[str, Peer], dict[OutputKey, TensorSpec]]:
    """Returns the peers that this process holds, and the specs of every output of all peers."""
    peers_here = placement.peers_on(comm.rank)
    num_replicas = {name: len(ranks) for name, ranks in placement.replica_ranks.items()}
    with comm.raise_together(names_rank=True):
        peers = {
            name: _build_peer(recipe, edges, data, name, is_replicated=num_replicas[name] > 1)
            for name in recipe.peers
            if name in peers_here
        }
        result = dry_run(recipe, edges, list(peers.values()), data.images, data.num_classes, num_replicas=num_replicas)
    results = comm.all_gather_json([output_specs(result.outputs), result.notes])
    if comm.is_main:
        for note in dict.fromkeys(note for _, notes in results for note in notes):
            warnings.warn(note, stacklevel=3)
    return peers, parse_output_specs([spec for specs, _ in results for spec in specs])


def _build_losses(
    recipe: Recipe,
    edges: list[Edge],
    comm: Communicator,
    placement: Placement,
    peers: dict[str, Peer],
    specs: dict[OutputKey, TensorSpec],
) -> dict[int, Loss]:
    """Returns by the edge's index the loss of every local learner's edge."""
    with comm.raise_together(names_rank=True):
        statistics_here = _source_statistics(recipe, edges, peers)
    statistics = {index: each for some in comm.all_gather_json(statistics_here) for index, each in some.items()}
    with comm.raise_together(names_rank=True):
        return {
            index: build_edge_loss(
                recipe,
                edge,
                peers[edge.learner],
                specs,
                statistics.get(str(index)),
                synchronized=recipe.train.sync_batchnorm and len(placement.replica_ranks[edge.learner]) > 1,
            )
            for index, edge in enumerate(edges)
            if edge.learner in peers
        }


def _edge_loss(recipe: Recipe, edge: Edge, loss: Loss, comm: Communicator | None) -> EdgeLoss:
    """Returns the loss of a local learner's edge; `comm`: the processes that train the learner."""
    assert comm is not None, "losses are built for local learners"
    factor = weight_factor(edge.objective, epochs=recipe.train.epochs)
    return EdgeLoss(edge, loss, factor, comm=comm, unlabelled=recipe.data.unlabelled is not None)


def _source_statistics(recipe: Recipe, edges: list[Edge], peers: dict[str, Peer]) -> dict[str, dict[str, list[list[float]]]]:
    """Returns by the edge's index what a loss must know of its source's model, for the sources that this process holds."""
    statistics = {}
    for index, edge in enumerate(edges):
        from_model, source = edge.loss_spec.from_model, peer_of(edge.sources[0]) if edge.sources else ""
        if from_model is not None and source in peers:
            try:
                tensors_by_name = from_model(peers[source].model, list(edge.source_at[0]))
            except ValueError as error:
                raise recipe.error(f"objectives.{edge.objective_index}.at", str(error)) from error
            statistics[str(index)] = {name: [tensor.tolist() for tensor in tensors] for name, tensors in tensors_by_name.items()}
    return statistics


def _build_peer(recipe: Recipe, edges: list[Edge], data: _DataSpec, name: str, *, is_replicated: bool) -> Peer:
    """Returns peer `name`; `is_replicated`: several processes train it together."""
    spec, train = recipe.peers[name], recipe.train
    model = create_peer_model(recipe, name, num_classes=data.num_classes, in_channels=data.images.shape[1])
    paths, average_paths = tap_paths(edges, name), tap_paths(edges, f"{name}.{EMA}")
    _check_paths(recipe, model, name, edges)
    if train.sync_batchnorm and is_replicated and not spec.frozen:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    average = None
    if train.ema is not None and not spec.frozen:
        try:
            average = MovingAverage(model, decay=train.ema, warmup=train.ema_warmup, paths=average_paths)
        except Exception as error:  # copying runs the user's model's code
            raise recipe.error("train.ema", f"{spec.model} cannot be copied: {type(error).__name__}: {error}") from error
    tapped = TappedModel(model, paths, columns=_class_columns(recipe, name, data.class_names))
    settings = FrozenSettings(spec.precision, _memory_format(spec), spec.forward_batch)
    return Peer(name, tapped, frozen=spec.frozen, average=average, evaluate_average=train.evaluate_ema, settings=settings)


def _memory_format(spec: PeerSpec) -> torch.memory_format | None:
    """Returns the memory format of a frozen peer's images where the recipe says one; the run's they have already."""
    if spec.channels_last is None:
        return None
    return torch.channels_last if spec.channels_last else torch.contiguous_format


def _class_columns(recipe: Recipe, name: str, class_names: Sequence[str]) -> list[int] | None:
    """Returns which output of a peer stands for which class of the data, by the names that its weights file has; None: in their order."""
    spec = recipe.peers[name]
    if spec.weights in (None, "pretrained") or not class_names:
        return None
    try:
        card = read_card(spec.weights or "")
        columns = None if card is None else class_columns(card.class_names, class_names)
    except ValueError as error:
        raise recipe.error(f"peers.{name}.weights", f"{spec.weights}: {error}") from error
    if columns is not None and not spec.frozen:
        raise recipe.error(
            f"peers.{name}.weights", f"{spec.weights} has the data's classes in another order, which only a frozen peer can have"
        )
    return columns


def _check_paths(recipe: Recipe, model: nn.Module, name: str, edges: list[Edge]) -> None:
    for edge in edges:
        learner_at = edge.learner_at if edge.learner == name else ()
        source_at = [path for source, paths in zip(edge.sources, edge.source_at, strict=True) if peer_of(source) == name for path in paths]
        for at in (*learner_at, *source_at):
            try:
                if at != LOGITS:
                    find_module(model, at)
            except ValueError as error:
                raise recipe.error(
                    f"objectives.{edge.objective_index}.at", f"peer {name!r} ({recipe.peers[name].model}) has {error}"
                ) from error


def _set_up(peer: Peer, recipe: Recipe, device: torch.device, comm: Communicator | None) -> None:
    """Moves a peer to its device and into its memory format, compiles it and, if it is trained, averages its gradients over `comm`."""
    spec, train = recipe.peers[peer.name], recipe.train
    for module in peer.modules:
        module.to(device)
        if train.channels_last if spec.channels_last is None else spec.channels_last:
            module.to(memory_format=torch.channels_last)
    if train.compile if spec.compile is None else spec.compile:
        peer.tapped.compile()
    if comm is not None:
        peer.distribute(comm)
