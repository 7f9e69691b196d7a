"""Communication between processes: the one place that uses torch.distributed."""

from mutual.group.communication.communicator import AllToAllWork, Communicator
from mutual.group.communication.launch import Store, init_job_process_group, launch_store, lost_connection, shutdown, wait_for_all
from mutual.group.communication.stop_poll import StopPoll
from mutual.group.communication.tensors import flatten, float_buffers, unflatten_

__all__ = [
    "AllToAllWork",
    "Communicator",
    "StopPoll",
    "Store",
    "flatten",
    "float_buffers",
    "init_job_process_group",
    "launch_store",
    "lost_connection",
    "shutdown",
    "unflatten_",
    "wait_for_all",
]
