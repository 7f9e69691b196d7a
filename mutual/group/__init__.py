"""The group: peers, the edges between them, and the processes they live in."""

from mutual.group.build import build_group, create_peer_model, unfit
from mutual.group.communication import (
    StopPoll,
    Store,
    World,
    agreed,
    divide_launch,
    flatten,
    float_buffers,
    launch_store,
    leave,
    lost_connection,
    meet,
    unflatten_,
)
from mutual.group.edges import Edge, expand, objective_names
from mutual.group.exchange import Exchange, Placement, Routes, asks_costs, parallel, replicated
from mutual.group.group import Group, GroupOutput, Moment, joined
from mutual.group.peers import Frozen, MovingAverage, Outputs, Peer, TappedModel, team_of

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
