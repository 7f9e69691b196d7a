"""Launch: what the launcher has started and set, and what a training would make of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from mutual.engine.diagnosis.redaction import redact

_SHOWN = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_SHM_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "GLOO_SOCKET_IFNAME",
    "ACCELERATE_USE_CPU",
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "TORCHELASTIC_RESTART_COUNT",
)
"""Variables that change how a training runs and say nothing of who runs it; no other one is shown."""


@dataclass(frozen=True)
class Launch:
    """How this process was started, and what a training would take.

    Attributes:
        launcher: torchrun, accelerate launch, another one, or none.
        started: number of processes that the launcher says it has started.
        joined: number of processes that a training would have; None where they do not join.
        is_lone: whether several were asked for, and this one was started alone.
        precision: the mixed precision that the launcher chose, or no; None where a training would not begin.
        threads: CPU threads of an operation; None where a training would not begin.
        variables: of the environment, those that change how a training runs.
        error: why a training would not begin.
    """

    launcher: str
    started: int
    joined: int | None = None
    is_lone: bool = False
    precision: str | None = None
    threads: int | None = None
    variables: dict[str, str] = field(default_factory=dict)
    error: str | None = None


def launcher_name() -> str:
    """Returns what started this process, as far as the environment tells."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        return "accelerate launch"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    return "another one" if "RANK" in os.environ or "MASTER_ADDR" in os.environ else "none"


def shown_variables() -> dict[str, str]:
    """Returns the variables of the environment that change how a training runs."""
    return {name: redact(os.environ[name]) for name in _SHOWN if name in os.environ}
