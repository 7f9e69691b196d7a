"""build_group: a recipe's peers with their weights and taps, and the edges between them, checked by a dry run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache

import torch
from torch import nn

from mutual.group.build.compilation import compile_peer
from mutual.group.build.data_spec import DataSpec
from mutual.group.build.dry_run import dry_run
from mutual.group.build.edge_loss_builder import build_edge_loss, output_specs, parse_output_specs, source_statistics
from mutual.group.build.peer_model import checkpoint_peer_activations, create_peer_model, freeze_peer_parts
from mutual.group.communication import Communicator
from mutual.group.edges import (
    CommonClasses,
    Edge,
    EdgeLoss,
    OutputKey,
    TensorSpec,
    expand_objectives,
    import_own_losses,
    tap_paths,
    weight_factor,
)
from mutual.group.exchange import OutputExchange, Placement, TransferPlan, parallel, replicated, scoring_requirements
from mutual.group.group import Group
from mutual.group.peers import Autocast, FrozenSettings, MovingAverage, Peer, PeerInput, TappedModel, find_module
from mutual.models import ClassMap, ModelInput
from mutual.objectives import Loss
from mutual.recipe import EMA, EMBEDDING, LOGITS, OwnLoss, Precision, Recipe, peer_of, program_file


def _no_autocast(precision: Precision | None = None, /) -> AbstractContextManager[object]:
    """Peers compute in the dtype of their weights; it cannot give another precision."""
    if precision not in (None, "no"):
        raise ValueError(f"precision {precision!r} needs an `autocast`, and `build_group` was given none")
    return nullcontext()


def build_group(
    recipe: Recipe,
    comm: Communicator,
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    autocast: Autocast = _no_autocast,
    class_names: Sequence[str] = (),
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
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
        statistics: mean and standard deviation of the data's pixel values in 0 .. 1, for peers that have none of their own; None: images
            that the group is given are what every peer reads, as they are.

    Raises:
        RecipeError: a model, its arguments, its weights file, a module path or a shape is wrong; on all ranks alike.
    """
    with comm.raise_together(names_rank=True):
        recipe = import_own_losses(recipe)
    edges = expand_objectives(recipe)
    mean, std = statistics or ((0.0,), (1.0,))
    data_input = ModelInput(image_size, tuple(mean), tuple(std), channels=in_channels)
    data = DataSpec(num_classes, tuple(class_names), data_input, reads_pixels=statistics is not None)
    placement = _place_peers(recipe, comm.size)
    built = _build_peers(recipe, edges, comm, placement, data)
    peers, specs = built.peers, built.specs
    classes = _common_classes(recipe, edges, built.classes, num_classes, comm.device)
    losses = _build_losses(recipe, edges, comm, placement, built, classes)  # before their adapters are moved with the peers
    trained = [name for name in recipe.peers if not recipe.peers[name].frozen]
    comms = dict(zip(trained, comm.split([placement.replica_ranks[name] for name in trained]), strict=True))
    for peer in peers.values():
        _set_up(peer, recipe, comm.device, comms.get(peer.name))
    loss_plan = TransferPlan.of(placement, edges, specs, dtype=recipe.exchange.dtype)

    @cache
    def score_exchange(names: tuple[str, ...]) -> OutputExchange:
        requirements = scoring_requirements(placement, names)
        return OutputExchange(TransferPlan(placement, requirements, specs, dtype=torch.float32), comm)  # what `predict` gives

    return Group(
        peers,
        edges,
        {
            index: _edge_loss(recipe, edges[index], loss, comms[edges[index].learner], classes[index], autocast)
            for index, loss in losses.items()
        },
        inputs=built.inputs,
        classes=built.classes,
        autocast=autocast,
        placement=placement,
        rank=comm.rank,
        loss_exchange=OutputExchange(loss_plan, comm),
        score_exchange=score_exchange,
    )


@dataclass(frozen=True)
class _BuiltPeers:
    """The peers that this process holds, and of all peers what the others must know.

    Attributes:
        peers: the peers that this process holds, by name.
        specs: shape and dtype of every output of all peers.
        inputs: what each peer reads.
        classes: the peers whose outputs are not simply the data's classes in their order, with what these stand for.
    """

    peers: dict[str, Peer]
    specs: dict[OutputKey, TensorSpec]
    inputs: dict[str, ModelInput]
    classes: dict[str, ClassMap]


def _place_peers(recipe: Recipe, world_size: int) -> Placement:
    """Returns which ranks hold which peers; a peer without a cost in the recipe costs 1."""
    if recipe.placement != "parallel" or world_size == 1:
        return replicated(recipe, world_size)
    return parallel(recipe, world_size, {name: peer.cost or 1.0 for name, peer in recipe.peers.items()})


def _build_peers(recipe: Recipe, edges: list[Edge], comm: Communicator, placement: Placement, data: DataSpec) -> _BuiltPeers:
    peers_here = placement.peers_on(comm.rank)
    num_replicas = {name: len(ranks) for name, ranks in placement.replica_ranks.items()}
    notes: list[str] = []
    with comm.raise_together(names_rank=True):
        peers = {
            name: _build_peer(recipe, edges, data, name, notes, is_replicated=num_replicas[name] > 1)
            for name in recipe.peers
            if name in peers_here
        }
        result = dry_run(recipe, edges, list(peers.values()), data.num_classes, num_replicas=num_replicas)
    local_inputs = {name: asdict(peer.input.model_input) for name, peer in peers.items()}
    local_classes = {name: asdict(peer.classes) for name, peer in peers.items() if peer.classes.columns is not None}
    local_known = {name: peer.classes.known for name, peer in peers.items() if peer.classes.known is not None}
    notes_here = [*notes, *result.notes, *_class_notes(data, local_known)]
    results = comm.all_gather_json([output_specs(result.outputs), notes_here, local_inputs, local_classes])
    if comm.is_main:
        for note in dict.fromkeys(note for _, notes, _, _ in results for note in notes):
            warnings.warn(note, stacklevel=3)
    inputs = {name: fields for _, _, some, _ in results for name, fields in some.items()}
    classes = {name: fields for _, _, _, some in results for name, fields in some.items()}
    return _BuiltPeers(
        peers,
        specs=parse_output_specs([spec for specs, _, _, _ in results for spec in specs]),
        inputs={name: ModelInput.from_json(inputs[name]) for name in recipe.peers if name in inputs},
        classes={name: ClassMap.from_json(classes[name]) for name in recipe.peers if name in classes},
    )


def _class_notes(data: DataSpec, known: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns a line for each peer that knows a part of the data's classes."""
    lines = []
    for name, indices in known.items():
        missing = [data.class_names[index] for index in sorted(set(range(data.num_classes)).difference(indices))]
        shown = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        lines.append(
            f"peers.{name}: knows {len(indices)} of the data's {data.num_classes} classes (not {shown}); losses and scores compare those"
        )
    return lines


def _common_classes(
    recipe: Recipe, edges: list[Edge], classes: Mapping[str, ClassMap], num_classes: int, device: torch.device
) -> list[CommonClasses | None]:
    """Returns for each edge the classes that its ends have in common, None where these are all."""
    known = {name: each.known for name, each in classes.items() if each.known is not None}
    common = []
    for edge in edges:
        try:
            common.append(CommonClasses.of(edge, known, num_classes=num_classes, multi_label=recipe.data.multi_label, device=device))
        except ValueError as error:
            raise recipe.error(f"objectives.{edge.objective_index}.sources", str(error)) from error
    return common


def _build_losses(
    recipe: Recipe,
    edges: list[Edge],
    comm: Communicator,
    placement: Placement,
    built: _BuiltPeers,
    classes: Sequence[CommonClasses | None],
) -> dict[int, Loss]:
    """Returns by the edge's index the loss of every local learner's edge."""
    with comm.raise_together(names_rank=True):
        statistics_here = source_statistics(recipe, edges, {name: peer.model for name, peer in built.peers.items()})
    statistics = {index: each for some in comm.all_gather_json(statistics_here) for index, each in some.items()}
    notes: list[str] = []
    with comm.raise_together(names_rank=True):
        losses = {
            index: build_edge_loss(
                recipe,
                edge,
                built.peers[edge.learner].tapped.adapters,
                built.specs,
                statistics.get(str(index)),
                notes,
                num_processes=len(placement.replica_ranks[edge.learner]),
                synchronized=recipe.train.sync_batchnorm and len(placement.replica_ranks[edge.learner]) > 1,
                classes=classes[index],
            )
            for index, edge in enumerate(edges)
            if edge.learner in built.peers
        }
    if any(isinstance(edge.objective, OwnLoss) for edge in edges):
        _warn(comm, notes)
    return losses


def _warn(comm: Communicator, notes_here: Sequence[str]) -> None:
    """Warns of the notes of all ranks, each once, on rank 0. Collective: all ranks must call it."""
    notes = [note for some in comm.all_gather_json(list(notes_here)) for note in some]
    if comm.is_main:
        for note in dict.fromkeys(notes):
            warnings.warn(note, stacklevel=4)


def _edge_loss(
    recipe: Recipe, edge: Edge, loss: Loss, comm: Communicator | None, classes: CommonClasses | None, autocast: Autocast
) -> EdgeLoss:
    """Returns the loss of a local learner's edge; `comm`: the processes that train the learner."""
    assert comm is not None, "losses are built for local learners"
    factor = weight_factor(edge.objective, epochs=recipe.train.epochs)
    unlabelled = recipe.data.unlabelled is not None
    return EdgeLoss(edge, loss, factor, comm=comm, unlabelled=unlabelled, classes=classes, autocast=autocast)


def _build_peer(recipe: Recipe, edges: list[Edge], data: DataSpec, name: str, notes: list[str], *, is_replicated: bool) -> Peer:
    """Returns peer `name`, and adds lines for the user to `notes`; `is_replicated`: several processes train it together."""
    spec, train = recipe.peers[name], recipe.train
    created = create_peer_model(recipe, name, data)
    notes += created.notes
    model = created.model
    paths, average_paths = tap_paths(edges, name), tap_paths(edges, f"{name}.{EMA}")
    _check_paths(recipe, model, name, edges)
    if train.sync_batchnorm and is_replicated and not spec.frozen:
        model = freeze_peer_parts(recipe, name, nn.SyncBatchNorm.convert_sync_batchnorm(model))  # once more: it has new layers
    average = None
    if train.ema is not None and not spec.frozen:
        try:
            average = MovingAverage(model, decay=train.ema, warmup=train.ema_warmup, paths=average_paths)
        except Exception as error:  # copying runs the user's model's code
            raise recipe.error("train.ema", f"{spec.model} cannot be copied: {type(error).__name__}: {error}") from error
    if spec.activation_checkpointing:
        checkpoint_peer_activations(recipe, name, model)
    tapped = TappedModel(model, paths, columns=created.classes.columns, output=LOGITS if spec.head == "classifier" else EMBEDDING)
    return Peer(
        name,
        tapped,
        frozen=spec.frozen,
        input=PeerInput(created.input, is_identity=not data.reads_pixels, channels_last=recipe.channels_last_of(name)),
        classes=created.classes,
        average=average,
        evaluate_average=train.evaluate_ema,
        settings=FrozenSettings(spec.precision, spec.forward_batch),
    )


def _check_paths(recipe: Recipe, model: nn.Module, name: str, edges: list[Edge]) -> None:
    output = EMBEDDING if name in recipe.headless else LOGITS
    for edge in edges:
        learner_at = edge.learner_at if edge.learner == name else ()
        source_at = [path for source, paths in zip(edge.sources, edge.source_at, strict=True) if peer_of(source) == name for path in paths]
        for at in (*learner_at, *source_at):
            try:
                if at != output and program_file(recipe.peers[name].model) is not None:
                    raise ValueError(f"no module {at!r}: an exported program gives its logits alone")
                if at != output:
                    find_module(model, at)
            except ValueError as error:
                raise recipe.error(
                    f"objectives.{edge.objective_index}.at", f"peer {name!r} ({recipe.peers[name].model}) has {error}"
                ) from error


def _set_up(peer: Peer, recipe: Recipe, device: torch.device, comm: Communicator | None) -> None:
    """Moves a peer to its device and into its memory format, compiles it and, if it is trained, averages its gradients over `comm`."""
    for module in peer.modules:
        module.to(device)
        if recipe.channels_last_of(peer.name):
            module.to(memory_format=torch.channels_last)
    if recipe.is_compiled(peer.name):
        compile_peer(peer, mode=recipe.train.compile_mode)
    if comm is not None:
        peer.distribute(comm)
