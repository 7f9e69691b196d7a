"""describe_run: the line that a training starts with."""

from __future__ import annotations

from mutual.engine.training.peer_collector import PeerCollector
from mutual.engine.training.setup import Training
from mutual.group import Communicator, Peer
from mutual.recipe import Precision, Recipe


def describe_run(recipe: Recipe, training: Training, collector: PeerCollector, comm: Communicator, precision: Precision) -> str:
    """Returns which peers are trained on which data by which processes, and notes on the data. Collective: all ranks must call it."""
    info, group = training.data.info, training.group
    sizes = collector.all_gather_dict({peer.name: _describe_size(peer) for peer in group.trainable})
    frozen = [name for name, peer in recipe.peers.items() if peer.frozen]
    sizes |= {name: "as published" if name in recipe.exchange.reads else "frozen" for name in frozen}
    peers = [f"{name} ({sizes[name]}{_describe_ranks(training, name)})" for name in (*recipe.trainable, *frozen)]
    processes = f"{comm.size} process{'es' if comm.size > 1 else ''} on {comm.device.type}, precision {precision}"
    data = f"{info.sizes}, {info.num_classes} classes"
    workers = training.data.num_workers(world_size=comm.size, accumulate=training.accumulate)
    loaded = f", {workers} loader process{'es' if workers > 1 else ''} each" if workers and recipe.data.workers is None else ""
    line = f"{', '.join(peers)}; {data}; {processes}{loaded}"
    return "\n".join([line, *(f"note: {note}" for note in training.data.notes)])


def _describe_ranks(training: Training, name: str) -> str:
    placement = training.group.placement
    return "" if placement.is_replicated else f", rank {', '.join(map(str, placement.replica_ranks[name]))}"


def _describe_size(peer: Peer) -> str:
    model, adapters = (sum(parameter.numel() for parameter in module.parameters()) for module in (peer.model, peer.tapped.adapters))
    trained = sum(parameter.numel() for parameter in peer.model.parameters() if parameter.requires_grad)
    only = f", {trained:,} of them trained" if trained < model else ""
    return f"{model:,} parameters{only}" + (f" and {adapters:,} in adapters" if adapters else "")
