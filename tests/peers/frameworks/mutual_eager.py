"""This package, with the settings that a recipe has without being asked."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from peers.jobs import Job

from mutual.engine.runtime import init_environment
from mutual.engine.training import build_training
from mutual.recipe import parse_recipe

NAME = "mutual"
METHODS = {"dml", "kd"}


def versions() -> dict[str, str]:
    """Returns what runs."""
    return {"torch": version("torch")}


def train(job: Job, loader: Callable[[Any], Any], **settings: Any) -> None:
    """Trains a recipe of the job."""
    recipe = parse_recipe(document(job, settings))
    training = build_training(recipe, init_environment(recipe))
    window = next(training.windows(0))
    training.data.close()
    training.group.train()
    for update, _ in enumerate(loader(window)):
        training.train_step(window, update, measure=False)


def document(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the recipe, as a dict; `settings` are those of `train`."""
    peers = {f"learner{index}": {"model": model} for index, model in enumerate(job.learners)}
    if job.teacher is not None:
        peers["teacher"] = {"model": job.teacher, "frozen": True}
    images = {"image_size": job.image_size, "channels": 3, "num_classes": job.num_classes, "batch_size": job.batch_size}
    return {
        "name": "side_by_side",
        "data": {"dataset": "fake", "num_train": job.batch_size, "num_val": 8, **images},
        "peers": peers,
        "objectives": [{"loss": "cross_entropy"}, {"loss": job.method}],
        "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 4e-5},
        "schedule": {"name": "constant"},
        "train": {"epochs": 1, "progress": False, **settings},
    }
