"""The model zoo: classifiers by name, their weights files, and the cards that rebuild them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.models.cards import ModelCard, architecture_args, cpu_tensors, model_bytes, read_card, read_model
    from mutual.models.classes import class_columns
    from mutual.models.files import check_file
    from mutual.models.loading import load_weights
    from mutual.models.zoo import create_model, is_in_zoo

__all__ = [
    "ModelCard",
    "architecture_args",
    "check_file",
    "class_columns",
    "cpu_tensors",
    "create_model",
    "is_in_zoo",
    "load_weights",
    "model_bytes",
    "read_card",
    "read_model",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.models.cards": ("ModelCard", "architecture_args", "cpu_tensors", "model_bytes", "read_card", "read_model"),
        "mutual.models.classes": ("class_columns",),
        "mutual.models.files": ("check_file",),
        "mutual.models.loading": ("load_weights",),
        "mutual.models.zoo": ("create_model", "is_in_zoo"),
    },
)
