"""What the frameworks on torch are given: models, a batch, and optimizers."""

from __future__ import annotations

import torch
from peers.jobs import Job
from torch import Tensor, nn

from mutual import create_model


def learners(job: Job) -> list[nn.Module]:
    """Returns the models that are trained."""
    return [create_model(name, num_classes=job.num_classes, in_channels=3).train() for name in job.learners]


def teacher(job: Job) -> nn.Module:
    """Returns the frozen model, in eval mode."""
    assert job.teacher is not None, "the method has a teacher"
    return create_model(job.teacher, num_classes=job.num_classes, in_channels=3).eval()


def batch(job: Job) -> tuple[Tensor, Tensor]:
    """Returns images `[B, 3, H, W]` and labels `[B]`."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(job.batch_size, 3, job.image_size, job.image_size, generator=generator)
    return images, torch.randint(job.num_classes, (job.batch_size,), generator=generator)


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Returns what every framework steps with."""
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-5)
