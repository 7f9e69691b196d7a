"""Training: the loop, the update, optimizers, and the state that a checkpoint holds."""

from mutual.engine.training.callbacks import Callback, TrainingState
from mutual.engine.training.pause import PauseSelector
from mutual.engine.training.setup import build_dataset, build_training, make_optimizer
from mutual.engine.training.train_step import TrainStep
from mutual.engine.training.trainer import Trainer

__all__ = [
    "Callback",
    "PauseSelector",
    "TrainStep",
    "Trainer",
    "TrainingState",
    "build_dataset",
    "build_training",
    "make_optimizer",
]
