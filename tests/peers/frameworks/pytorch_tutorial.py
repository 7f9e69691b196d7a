"""The loop of PyTorch's tutorial on knowledge distillation, as a plain script has it: soft targets at T = 2, weights 0.25 and 0.75.

https://docs.pytorch.org/tutorials/beginner/knowledge_distillation_tutorial.html
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from peers.frameworks import torch_parts
from peers.jobs import Job

NAME = "PyTorch tutorial"
METHODS = {"kd"}
TEMPERATURE, SOFT_WEIGHT = 2.0, 0.25


def versions() -> dict[str, str]:
    """Returns what runs."""
    return {"torch": version("torch")}


def train(job: Job, loader: Callable[[Any], Any]) -> None:
    """Trains the job's student; its loss is read in every update, as there."""
    (student,) = torch_parts.learners(job)
    teacher, optimizer, total = torch_parts.teacher(job), torch_parts.optimizer(student), 0.0
    for images, labels in loader(torch_parts.batch(job)):
        optimizer.zero_grad()
        with torch.no_grad():
            teacher_logits = teacher(images)
        logits = student(images)
        targets, log_probabilities = F.softmax(teacher_logits / TEMPERATURE, dim=-1), F.log_softmax(logits / TEMPERATURE, dim=-1)
        soft_loss = torch.sum(targets * (targets.log() - log_probabilities)) / len(images) * TEMPERATURE**2
        loss = SOFT_WEIGHT * soft_loss + (1 - SOFT_WEIGHT) * F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
