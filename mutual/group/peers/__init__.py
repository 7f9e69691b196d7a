"""Peers: models with their taps, frozen or trained, and their moving averages."""

from mutual.group.peers.activation_checkpointing import checkpoint_activations
from mutual.group.peers.ema import MovingAverage
from mutual.group.peers.frozen_parts import freeze_parts
from mutual.group.peers.loop_taps import Taps
from mutual.group.peers.output_store import OutputStore
from mutual.group.peers.peer import Autocast, Frozen, FrozenSettings, Peer, replica_comm
from mutual.group.peers.peer_input import PeerInput, SharedInputs
from mutual.group.peers.seeding import seed_generators
from mutual.group.peers.taps import Outputs, TappedModel, find_module

__all__ = [
    "Autocast",
    "Frozen",
    "FrozenSettings",
    "MovingAverage",
    "OutputStore",
    "Outputs",
    "Peer",
    "PeerInput",
    "SharedInputs",
    "TappedModel",
    "Taps",
    "checkpoint_activations",
    "find_module",
    "freeze_parts",
    "replica_comm",
    "seed_generators",
]
