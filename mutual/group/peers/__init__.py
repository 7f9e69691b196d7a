"""Peers: models with their taps, frozen or trained, and their moving averages."""

from mutual.group.peers.ema import MovingAverage
from mutual.group.peers.peer import Autocast, Frozen, FrozenSettings, Peer, replica_comm
from mutual.group.peers.taps import Outputs, TappedModel, find_module

__all__ = [
    "Autocast",
    "Frozen",
    "FrozenSettings",
    "MovingAverage",
    "Outputs",
    "Peer",
    "TappedModel",
    "find_module",
    "replica_comm",
]
