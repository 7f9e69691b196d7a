"""Training: the loop, the update, optimizers, and the state that a checkpoint holds."""

from mutual.engine.training.callbacks import Callback, TrainingState, check_callbacks
from mutual.engine.training.class_weights import resolve_class_weights
from mutual.engine.training.clipping import clip_parameter_norms
from mutual.engine.training.peer_optimizer import takes_argument, with_fused_steps
from mutual.engine.training.run_setup import build_trainer
from mutual.engine.training.setup import Training, build_dataset, build_training, load_for_peers, make_optimizer
from mutual.engine.training.trainer import Trainer

__all__ = [
    "Callback",
    "Trainer",
    "Training",
    "TrainingState",
    "build_dataset",
    "build_trainer",
    "build_training",
    "check_callbacks",
    "clip_parameter_norms",
    "load_for_peers",
    "make_optimizer",
    "resolve_class_weights",
    "takes_argument",
    "with_fused_steps",
]
