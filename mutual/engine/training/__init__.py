"""Training: the loop, the update, optimizers, and the state that a checkpoint holds."""

from mutual.engine.training.pause import Pausing
from mutual.engine.training.setup import build_dataset, build_parts, make_optimizer
from mutual.engine.training.trainer import Trainer
from mutual.engine.training.updates import Updater

__all__ = [
    "Pausing",
    "Trainer",
    "Updater",
    "build_dataset",
    "build_parts",
    "make_optimizer",
]
