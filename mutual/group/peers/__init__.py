"""Peers: models with their taps, frozen or trained, and their moving averages."""

from mutual.group.peers.ema import MovingAverage
from mutual.group.peers.output_store import OutputStore
from mutual.group.peers.peer import Frozen, Peer, replica_comm
from mutual.group.peers.taps import Outputs, TappedModel, find_module

__all__ = [
    "Frozen",
    "MovingAverage",
    "OutputStore",
    "Outputs",
    "Peer",
    "TappedModel",
    "find_module",
    "replica_comm",
]
