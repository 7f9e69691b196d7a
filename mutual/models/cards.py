"""Weights files with a card: what they hold can be rebuilt from the file alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from mutual.models.loading import check_exists, load_weights
from mutual.models.zoo import create_model

_CARD = "mutual"


@dataclass(frozen=True)
class ModelCard:
    """What rebuilds a model and prepares its images: stands in the metadata of every weights file that we write.

    `mean` and `std` are those of pixel values in 0 .. 1, by channel; `image_size` is (height, width); with `multi_label` the logits are
    for a sigmoid each, not for a softmax.
    """

    model: str
    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    args: dict[str, Any] = field(default_factory=dict)
    multi_label: bool = False

    def to_json(self) -> str:
        """Returns the card as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Returns the card that `to_json` wrote."""
        fields = json.loads(text)
        for name in ("image_size", "mean", "std", "class_names"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def model_bytes(model: nn.Module, card: ModelCard) -> bytes:
    """Returns the contents of a safetensors file with the model's weights and buffers and its card."""
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in model.state_dict().items()}
    content: bytes = safetensors.torch.save(tensors, metadata={_CARD: card.to_json()})
    return content


def read_model(path: str | Path) -> tuple[nn.Module, ModelCard]:
    """Returns the model in a file that `model_bytes` made, in eval mode, and its card.

    Raises:
        ValueError: no such file, or it has no card.
    """
    card = read_card(path)
    if card is None:
        raise ValueError(f"{path} does not say which model it holds; it was not written by mutual")
    model = create_model(card.model, **{"num_classes": card.num_classes, "in_channels": card.in_channels, **card.args})
    load_weights(model, path)
    return model.eval(), card


def read_card(path: str | Path) -> ModelCard | None:
    """Returns the card of a weights file, or None where it has none.

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    check_exists(Path(path))
    if Path(path).suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error})") from error
    return ModelCard.from_json(metadata[_CARD]) if _CARD in metadata else None
