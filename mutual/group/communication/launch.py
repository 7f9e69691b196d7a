"""How processes of a launch find each other, and how they part."""

from __future__ import annotations

import os
import re
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.distributed_c10d import Store as Store

JOB = "MUTUAL_JOB"


def launch_store(name: str, *, timeout: float) -> Store | None:
    """Returns a connection of its own to the launcher's key-value store, for keys of `name`; None where it has none.

    It does not wait for what another thread asks, as the store of the process group does. Where no launcher keeps a store, process 0 does,
    from the time when it joins the others; one that cannot be reached within `timeout` seconds is none.
    """
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        return None
    limit = timedelta(seconds=timeout)
    try:
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=limit)  # type: ignore[attr-defined]
    except (RuntimeError, ValueError):
        return None
    return PrefixStore(f"mutual/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}", store)


def init_job_process_group(name: str, *, rank: int, size: int, timeout: float) -> None:
    """Makes of this process and those that give the same `name` a launch of their own: `size` processes, of which it is number `rank`.

    They meet in the launcher's store, which stays for as long as any of them; their collectives may take `timeout` seconds. What asks the
    environment afterwards, as Accelerate does, finds them alone.

    Raises:
        ValueError: the launcher keeps no store.
    """
    store = launch_store(name, timeout=60) if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else None
    if store is None:
        raise ValueError("several jobs in one launch need torchrun, or what starts it (accelerate launch --multi_gpu)")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(size), JOB: name})


def wait_for_all() -> bool:
    """Waits for the other processes; returns False where this one has joined none."""
    joined = dist.is_available() and dist.is_initialized()
    if joined:
        dist.barrier()
    return joined


def shutdown() -> None:
    """Ends this process' part in the group of processes, after waiting for the others; does nothing where there is none.

    Without it, a process that exits first makes the others abort.
    """
    if wait_for_all():
        dist.destroy_process_group()


_LOST = re.compile(r"gloo|nccl|timed out|connection (closed|reset)", re.IGNORECASE)


def lost_connection(error: BaseException) -> bool:
    """Returns True for what a collective raises where another process has ended or does not answer in time."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None)
