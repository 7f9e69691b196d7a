"""The model zoo: classifiers by name, their weights files, and the cards that rebuild them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.models.cards import (
        ModelCard,
        architecture_args,
        check_trusted,
        cpu_tensors,
        model_bytes,
        read_card,
        read_model,
        read_preprocess,
    )
    from mutual.models.class_index import ClassIndex
    from mutual.models.classes import ClassMap, class_columns, match_indices, match_names
    from mutual.models.classifier import classifier_paths
    from mutual.models.files import check_file, weights_path
    from mutual.models.loading import LoadedWeights, load_weights
    from mutual.models.model_input import ModelInput, declared_input, statistics_for
    from mutual.models.paddleclas.converting import converted_weights
    from mutual.models.zoo import classifier_tensors, create_model, is_in_zoo, pretrained_classes

__all__ = [
    "ClassIndex",
    "ClassMap",
    "LoadedWeights",
    "ModelCard",
    "ModelInput",
    "architecture_args",
    "check_file",
    "check_trusted",
    "class_columns",
    "classifier_paths",
    "classifier_tensors",
    "converted_weights",
    "cpu_tensors",
    "create_model",
    "declared_input",
    "is_in_zoo",
    "load_weights",
    "match_indices",
    "match_names",
    "model_bytes",
    "pretrained_classes",
    "read_card",
    "read_model",
    "read_preprocess",
    "statistics_for",
    "weights_path",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.models.cards": (
            "ModelCard",
            "architecture_args",
            "check_trusted",
            "cpu_tensors",
            "model_bytes",
            "read_card",
            "read_model",
            "read_preprocess",
        ),
        "mutual.models.classifier": ("classifier_paths",),
        "mutual.models.class_index": ("ClassIndex",),
        "mutual.models.classes": ("ClassMap", "class_columns", "match_indices", "match_names"),
        "mutual.models.files": ("check_file", "weights_path"),
        "mutual.models.loading": ("LoadedWeights", "load_weights"),
        "mutual.models.model_input": ("ModelInput", "declared_input", "statistics_for"),
        "mutual.models.paddleclas.converting": ("converted_weights",),
        "mutual.models.zoo": ("classifier_tensors", "create_model", "is_in_zoo", "pretrained_classes"),
    },
)
