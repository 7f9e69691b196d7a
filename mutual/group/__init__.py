"""The group: peers, the edges between them, and the processes they live in."""

from mutual.group.build import (
    DataSpec,
    PeerModel,
    build_group,
    checkpoint_peer_activations,
    create_peer_model,
    input_mismatch_error,
    room_for_graphs,
)
from mutual.group.communication import (
    Communicator,
    StopPoll,
    Store,
    flatten,
    float_buffers,
    init_job_process_group,
    launch_store,
    lost_connection,
    shutdown,
    unflatten_,
    wait_for_all,
)
from mutual.group.distillation_loss import DistillationLoss
from mutual.group.edges import Edge, MicroBatchContext, OutputKey, TensorSpec, expand_objectives, import_own_losses
from mutual.group.exchange import OutputExchange, Placement, TransferPlan, needs_costs, parallel, replicated
from mutual.group.group import Group
from mutual.group.outputs import EdgeLosses, GroupOutput, merge_outputs
from mutual.group.peers import Frozen, MovingAverage, Outputs, OutputStore, Peer, PeerInput, TappedModel, Taps, replica_comm

__all__ = [
    "Communicator",
    "DataSpec",
    "DistillationLoss",
    "Edge",
    "EdgeLosses",
    "Frozen",
    "Group",
    "GroupOutput",
    "MicroBatchContext",
    "MovingAverage",
    "OutputExchange",
    "OutputKey",
    "OutputStore",
    "Outputs",
    "Peer",
    "PeerInput",
    "PeerModel",
    "Placement",
    "StopPoll",
    "Store",
    "TappedModel",
    "Taps",
    "TensorSpec",
    "TransferPlan",
    "build_group",
    "checkpoint_peer_activations",
    "create_peer_model",
    "expand_objectives",
    "flatten",
    "float_buffers",
    "import_own_losses",
    "init_job_process_group",
    "input_mismatch_error",
    "launch_store",
    "lost_connection",
    "merge_outputs",
    "needs_costs",
    "parallel",
    "replica_comm",
    "replicated",
    "room_for_graphs",
    "shutdown",
    "unflatten_",
    "wait_for_all",
]
