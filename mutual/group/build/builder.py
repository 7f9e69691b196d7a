"""build_group: a recipe's peers with their weights and taps, and the edges between them, checked by a dry run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from mutual.group.build.dry_run import dry_run
from mutual.group.build.edge_loss_builder import build_edge_loss, output_specs, parse_output_specs
from mutual.group.communication import Communicator, all_ranks_or_raise
from mutual.group.edges import Edge, EdgeLoss, OutputKey, TensorSpec, expand, tap_paths, weight_factor
from mutual.group.exchange import OutputExchange, Placement, TransferPlan, parallel, replicated, scoring_requirements
from mutual.group.group import Group
from mutual.group.peers import MovingAverage, Peer, TappedModel, find_module
from mutual.models import class_columns, create_model, load_weights, read_card
from mutual.objectives import Loss
from mutual.recipe import EMA, LOGITS, Recipe, derive_seed, peer_of


def build_group(
    recipe: Recipe,
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    comm: Communicator,
    autocast: Callable[[], AbstractContextManager[object]],
    class_names: Sequence[str] = (),
) -> Group:
    """Builds the peers that this process holds on `comm.device`, and the edges by which they learn.

    With `class_names`, those of the data, the outputs of a frozen peer whose weights name their classes are read in the data's order.

    Raises:
        RecipeError: a model, its arguments, its weights file, a module path or a shape is wrong; on every process alike.
    """
    edges = expand(recipe)
    builder = _Builder(
        recipe, edges, comm, num_classes=num_classes, in_channels=in_channels, image_size=image_size, class_names=class_names
    )
    placement = builder.place()
    peers, specs = builder.peers(placement)
    losses = builder.losses(peers, specs, placement)
    trained = [name for name in recipe.peers if not recipe.peers[name].frozen]
    comms = dict(zip(trained, comm.split([placement.replica_ranks[name] for name in trained]), strict=True))
    for peer in peers.values():
        _place(peer, recipe, comm.device, comms.get(peer.name))
    unlabelled = recipe.data.unlabelled is not None
    local_losses = {}
    for index, loss in losses.items():
        edge, replicas = edges[index], comms[edges[index].learner]
        assert replicas is not None, "losses are built for local learners"
        factor = weight_factor(edge.spec, epochs=recipe.train.epochs)
        local_losses[index] = EdgeLoss(edge, loss, factor, comm=replicas, unlabelled=unlabelled)
    loss_plan = TransferPlan.of(placement, edges, specs, dtype=recipe.exchange.dtype)
    score_plan = TransferPlan(placement, scoring_requirements(placement, list(recipe.peers)), specs)
    return Group(
        peers,
        edges,
        local_losses,
        autocast=autocast,
        placement=placement,
        rank=comm.rank,
        loss_exchange=OutputExchange(loss_plan, comm),
        score_exchange=OutputExchange(score_plan, comm),
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


class _Builder:
    """Builds what one process holds, and learns from the others what it must know of the rest."""

    def __init__(
        self,
        recipe: Recipe,
        edges: list[Edge],
        comm: Communicator,
        *,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        class_names: Sequence[str],
    ) -> None:
        self._recipe = recipe
        self._edges = edges
        self._comm = comm
        self._num_classes = num_classes
        self._class_names = class_names
        self._images = torch.zeros(2, in_channels, *image_size)

    def place(self) -> Placement:
        """Returns who holds whom; a peer whose cost the recipe does not say costs 1."""
        recipe, comm = self._recipe, self._comm
        if recipe.placement != "parallel" or comm.size == 1:
            return replicated(recipe, comm.size)
        return parallel(recipe, comm.size, {name: peer.cost or 1.0 for name, peer in recipe.peers.items()})

    def peers(self, placement: Placement) -> tuple[dict[str, Peer], dict[OutputKey, TensorSpec]]:
        """Returns the peers that this process holds, and by source and output the shapes of all."""
        peers: dict[str, Peer] = {}
        num_replicas = {name: len(ranks) for name, ranks in placement.replica_ranks.items()}

        def build() -> list[list[Any]]:
            mine = [name for name in self._recipe.peers if name in placement.peers_on(self._comm.rank)]
            peers.update({name: self._build_peer(name, several=num_replicas[name] > 1) for name in mine})
            found = dry_run(self._recipe, self._edges, list(peers.values()), self._images, self._num_classes, num_replicas=num_replicas)
            return [output_specs(found.outputs), found.notes]

        told = [build()] if placement.is_replicated else all_ranks_or_raise(self._comm, build)
        if self._comm.is_main:
            for note in dict.fromkeys(note for _, notes in told for note in notes):
                warnings.warn(note, stacklevel=2)
        return peers, parse_output_specs([form for specs, _ in told for form in specs])

    def losses(self, peers: dict[str, Peer], specs: dict[OutputKey, TensorSpec], placement: Placement) -> dict[int, Loss]:
        """Returns by its edge's number the loss of every local learner's edge."""
        apart = self._recipe.placement == "parallel" and self._comm.size > 1
        heard = all_ranks_or_raise(self._comm, lambda: self._told(peers)) if apart else [self._told(peers)]
        told = {number: value for each in heard for number, value in each.items()}
        losses: dict[int, Loss] = {}

        def build() -> None:
            for index, edge in enumerate(self._edges):
                if edge.learner in peers:
                    synchronized = self._recipe.train.sync_batchnorm and len(placement.replica_ranks[edge.learner]) > 1
                    losses[index] = build_edge_loss(
                        self._recipe, edge, peers[edge.learner], specs, told.get(str(index)), synchronized=synchronized
                    )

        if apart:
            all_ranks_or_raise(self._comm, build)
        else:
            build()
        return losses

    def _told(self, peers: dict[str, Peer]) -> dict[str, dict[str, list[list[float]]]]:
        """Returns by its edge's number what a loss must know of its source's model, of the sources that are held here."""
        told = {}
        for index, edge in enumerate(self._edges):
            from_model, source = edge.loss_spec.from_model, peer_of(edge.sources[0]) if edge.sources else ""
            if from_model is not None and source in peers:
                try:
                    made = from_model(peers[source].model, list(edge.source_at[0]))
                except ValueError as error:
                    raise self._recipe.error(f"objectives.{edge.index}.at", str(error)) from error
                told[str(index)] = {key: [tensor.tolist() for tensor in tensors] for key, tensors in made.items()}
        return told

    def _create(self, name: str) -> nn.Module:
        return create_peer_model(self._recipe, name, num_classes=self._num_classes, in_channels=self._images.shape[1])

    def _build_peer(self, name: str, *, several: bool) -> Peer:
        """Builds a peer that `several` processes train together, or one."""
        spec, train = self._recipe.peers[name], self._recipe.train
        model = self._create(name)
        paths, average_paths = tap_paths(self._edges, name), tap_paths(self._edges, f"{name}.{EMA}")
        _check_paths(self._recipe, model, name, self._edges)
        if train.sync_batchnorm and several and not spec.frozen:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        average = None
        if train.ema is not None and not spec.frozen:
            try:
                average = MovingAverage(model, decay=train.ema, warmup=train.ema_warmup, paths=average_paths)
            except Exception as error:  # copying runs the user's model's code
                raise self._recipe.error("train.ema", f"{spec.model} cannot be copied: {type(error).__name__}: {error}") from error
        tapped = TappedModel(model, paths, columns=_class_columns(self._recipe, name, self._class_names))
        return Peer(name, tapped, frozen=spec.frozen, average=average, score_average=train.evaluate_ema)


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
        mine = edge.learner_at if edge.learner == name else ()
        theirs = [path for source, paths in zip(edge.sources, edge.source_at, strict=True) if peer_of(source) == name for path in paths]
        for at in (*mine, *theirs):
            try:
                if at != LOGITS:
                    find_module(model, at)
            except ValueError as error:
                raise recipe.error(f"objectives.{edge.index}.at", f"peer {name!r} ({recipe.peers[name].model}) has {error}") from error


def _place(peer: Peer, recipe: Recipe, device: torch.device, comm: Communicator | None) -> None:
    train = recipe.train
    modules = [peer.tapped] if peer.average is None else [peer.tapped, peer.average.tapped]
    for module in modules:
        module.to(device)
        if train.channels_last:
            module.to(memory_format=torch.channels_last)
    if train.compile:
        peer.tapped.compile()
    if comm is not None:
        peer.distribute(comm)
