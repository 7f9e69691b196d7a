"""torchdistill's DistillationBox with its KDLoss, in the loop that its examples run."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from peers.frameworks import torch_parts
from peers.jobs import Job

NAME = "torchdistill"
METHODS = {"kd"}
_ENDS = {f"{model}_module_{key}": value for model in ("student", "teacher") for key, value in (("path", "."), ("io", "output"))}
_KD = {"key": "KDLoss", "kwargs": {**_ENDS, "temperature": 4.0, "alpha": 0.5, "reduction": "batchmean"}}


def versions() -> dict[str, str]:
    """Returns what runs."""
    import torchdistill  # noqa: F401  (whether it can be)

    return {"torchdistill": version("torchdistill"), "torch": version("torch")}


def train(job: Job, loader: Callable[[Any], Any]) -> None:
    """Trains the job's student."""
    from torchdistill.core.distillation import get_distillation_box

    (student,) = torch_parts.learners(job)
    config = {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.01, "momentum": 0.9, "weight_decay": 4e-5}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": _KD, "weight": 1.0}}}},
    }
    box = get_distillation_box(torch_parts.teacher(job), student, {}, config, torch.device("cpu"), None, False, 1)
    box.pre_epoch_process(epoch=0)
    for images, labels in loader(torch_parts.batch(job)):
        box.post_forward_process(loss=box.forward_process(images, labels))
