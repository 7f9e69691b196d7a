"""Training: the loop, the update, optimizers, and the state that a checkpoint holds."""

from mutual.engine.training.pause import PauseSelector
from mutual.engine.training.setup import build_dataset, build_training, make_optimizer
from mutual.engine.training.train_step import TrainStep
from mutual.engine.training.trainer import Trainer

__all__ = [
    "PauseSelector",
    "TrainStep",
    "Trainer",
    "build_dataset",
    "build_training",
    "make_optimizer",
]
