"""The group: peers, the edges between them, and the world of processes they live in."""

from mutual.group.agreement import agreed
from mutual.group.build import build_group, create_peer_model
from mutual.group.edges import Edge, expand, objective_names
from mutual.group.exchange import Exchange
from mutual.group.group import Group, GroupOutput, Moment, joined
from mutual.group.peers import Frozen, MovingAverage, Peer, team_of
from mutual.group.placement import Placement, asks_costs, parallel, replicated
from mutual.group.probing import unfit
from mutual.group.routes import Routes
from mutual.group.taps import Outputs, TappedModel
from mutual.group.tensors import flatten, float_buffers, unflatten_
from mutual.group.world import StopPoll, Store, World, divide_launch, launch_store, leave, lost_connection, meet

__all__ = [
    "Edge",
    "Exchange",
    "Frozen",
    "Group",
    "GroupOutput",
    "Moment",
    "MovingAverage",
    "Outputs",
    "Peer",
    "Placement",
    "Routes",
    "StopPoll",
    "Store",
    "TappedModel",
    "World",
    "agreed",
    "asks_costs",
    "build_group",
    "create_peer_model",
    "divide_launch",
    "expand",
    "flatten",
    "float_buffers",
    "joined",
    "launch_store",
    "leave",
    "lost_connection",
    "meet",
    "objective_names",
    "parallel",
    "replicated",
    "team_of",
    "unfit",
    "unflatten_",
]
