"""How the processes of a launch find each other, and how they leave."""

from __future__ import annotations

import os
import re
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.distributed_c10d import Store as Store

from mutual.group.communication.errors import OtherRankError

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
    except (RuntimeError, ValueError, TypeError):  # the last where the port is a number that no port has
        return None
    return PrefixStore(f"mutual/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}", store)


def keep_launch_store(*, timeout: float) -> Store | None:
    """Keeps the store of the launch, which `launch_store` connects to, for as long as the caller keeps what is returned.

    For process 0 where no launcher keeps one, before it joins the others: the process group then meets in the same store.

    Returns:
        The store, or None where its address is not this machine's or is taken.
    """
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        return None
    limit = timedelta(seconds=timeout)
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return dist.TCPStore(address, port, is_master=True, timeout=limit, wait_for_workers=False, multi_tenant=True)  # type: ignore[attr-defined]
    except (RuntimeError, ValueError, TypeError):  # the last where the port is a number that no port has
        return None


def has_agent_store() -> bool:
    """Returns True where torchrun keeps the store in which processes meet, so that none of them has to."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def init_job_process_group(name: str, *, rank: int, size: int, timeout: float) -> None:
    """Joins this process and those that give the same `name` in a process group of their own, with `size` ranks.

    They meet in the launcher's store, which stays for as long as any of them. The environment variables of the launch are set so that
    Accelerate finds these processes alone.

    Args:
        name: the job.
        rank: this process' rank in it.
        size: number of its processes.
        timeout: seconds that a collective may take.

    Raises:
        ValueError: the launcher keeps no store.
    """
    store = launch_store(name, timeout=60) if has_agent_store() else None
    if store is None:
        raise ValueError("several jobs in one launch need torchrun, or what starts it (accelerate launch --multi_gpu)")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(size), JOB: name})


def nccl_version() -> str | None:
    """Returns the version of NCCL, or None where torch was built without."""
    if not (dist.is_available() and dist.is_nccl_available()):
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))


def wait_for_all() -> bool:
    """Waits for the other processes; returns False if this one has joined none."""
    joined = dist.is_available() and dist.is_initialized()
    if joined:
        dist.barrier()
    return joined


def shutdown() -> None:
    """Waits for the other processes and destroys the process group, if there is one.

    Without it, a process that exits first makes the others abort.
    """
    if wait_for_all():
        dist.destroy_process_group()


_LOST = re.compile(r"gloo|nccl|timed out|timeout|pair closure|broken pipe|connection (closed|reset)", re.IGNORECASE)


def lost_connection(error: BaseException) -> bool:
    """Returns True for what a collective raises where another process has ended or does not answer in time."""
    return isinstance(error, dist.DistError | OtherRankError) or (isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None)
