"""Communication between processes: the one place that uses torch.distributed."""

from mutual.group.communication.communicator import AllToAllWork, Communicator
from mutual.group.communication.launch import (
    Store,
    has_agent_store,
    init_job_process_group,
    keep_launch_store,
    launch_store,
    lost_connection,
    nccl_version,
    shutdown,
    wait_for_all,
)
from mutual.group.communication.stop_poll import StopPoll
from mutual.group.communication.tensors import flatten, float_buffers, unflatten_

__all__ = [
    "AllToAllWork",
    "Communicator",
    "StopPoll",
    "Store",
    "flatten",
    "float_buffers",
    "has_agent_store",
    "init_job_process_group",
    "keep_launch_store",
    "launch_store",
    "lost_connection",
    "nccl_version",
    "shutdown",
    "unflatten_",
    "wait_for_all",
]
