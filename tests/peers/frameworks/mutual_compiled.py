"""This package, with `train.channels_last` and `train.compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peers.frameworks import mutual_eager
from peers.jobs import Job

NAME = "mutual, channels_last and compile"
METHODS = mutual_eager.METHODS
versions = mutual_eager.versions


def train(job: Job, loader: Callable[[Any], Any]) -> None:
    """Trains a recipe of the job."""
    mutual_eager.train(job, loader, channels_last=True, compile=True)
