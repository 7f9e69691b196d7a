"""The model zoo: classifiers by name, their weights files, and the cards that rebuild them."""

from mutual.models.cards import ModelCard, architecture_args, model_bytes, read_card, read_model
from mutual.models.classes import class_columns
from mutual.models.loading import load_weights
from mutual.models.reading import reason_of
from mutual.models.zoo import MODELS, create_model

__all__ = [
    "MODELS",
    "ModelCard",
    "architecture_args",
    "class_columns",
    "create_model",
    "load_weights",
    "model_bytes",
    "read_card",
    "read_model",
    "reason_of",
]
