"""write_summary: what a finished run took, written into its folder."""

from __future__ import annotations

import resource
import sys

import torch

from mutual.data import DataInfo
from mutual.engine.monitoring import TrafficMeter
from mutual.engine.storage import RunFolder, RunSummary
from mutual.engine.training.checkpointer import Progress
from mutual.group import Communicator


def write_summary(folder: RunFolder, progress: Progress, info: DataInfo, traffic: TrafficMeter, comm: Communicator) -> None:
    """Writes summary.json unless the run has one of this state. Collective: all ranks must call it.

    Raises:
        OSError: it could not be written; on all ranks alike.
    """
    sent_bytes = traffic.mean_sent_bytes()
    peak_bytes = max(comm.all_gather_json(_peak_bytes(comm.device)))
    device = torch.cuda.get_device_name(comm.device) if comm.device.type == "cuda" else comm.device.type
    with comm.raise_together():
        saved = folder.read_summary() if comm.is_main else None
        if comm.is_main and (saved is None or (saved.epoch, saved.update) != (progress.epoch, progress.update)):
            folder.write_summary(
                RunSummary(
                    epoch=progress.epoch,
                    update=progress.update,
                    processes=comm.size,
                    device=device,
                    peak_bytes=peak_bytes,
                    sent_bytes=sent_bytes,
                    images={"train": info.num_train, "val": info.num_val, **({} if info.num_test is None else {"test": info.num_test})},
                )
            )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
