"""peer_card: what a trained peer's weights files say of it."""

from __future__ import annotations

from mutual.data import DataModule
from mutual.models import ModelCard, ModelInput, architecture_args
from mutual.recipe import Recipe


def peer_card(recipe: Recipe, name: str, data: DataModule, model_input: ModelInput) -> ModelCard:
    """Returns the card of peer `name`, which reads `model_input`: architecture, classes, and how its images were prepared."""
    spec, info = recipe.peers[name], data.info
    return ModelCard(
        model=spec.model,
        args=architecture_args(spec.model, spec.args),
        num_classes=info.num_classes,
        in_channels=model_input.channels,
        image_size=model_input.size,
        mean=model_input.mean,
        std=model_input.std,
        class_names=info.class_names,
        multi_label=info.multi_label,
        interpolation=model_input.interpolation,
        channel_order="L" if model_input.channels == 1 else "RGB",
        preprocess=data.preprocess,
        loaded_channels=data.loaded_shape[0],
    )
