"""Communication between processes: the one place that uses torch.distributed."""

from mutual.group.communication.agreement import agreed
from mutual.group.communication.communicator import StopPoll, Swap, World
from mutual.group.communication.launch import Store, divide_launch, launch_store, leave, lost_connection, meet
from mutual.group.communication.tensors import flatten, float_buffers, unflatten_

__all__ = [
    "StopPoll",
    "Store",
    "Swap",
    "World",
    "agreed",
    "divide_launch",
    "flatten",
    "float_buffers",
    "launch_store",
    "leave",
    "lost_connection",
    "meet",
    "unflatten_",
]
