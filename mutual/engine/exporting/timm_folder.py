"""timm_config: what timm loads as `local-dir:FOLDER`: the config of a peer of timm's, and how far timm's transforms are ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mutual.models import ModelCard, read_preprocess
from mutual.recipe.transforms import CenterCrop, Resize

LOWEST_VERSION = "1.0.26"
"""The first timm that reads safetensors behind `local-dir:`; from 1.0.16 on it knows the form and takes torch checkpoints alone."""
FAMILY = "timm/"
_HEAD = ("first_conv", "classifier")


@dataclass(frozen=True)
class TimmConfig:
    """What timm is told of a peer.

    Attributes:
        architecture: the model's name in timm.
        arguments: what timm's `create_model` is called with besides.
        document: the content of config.json.
        note: where timm's transforms are not ours, and how; empty where they are.
    """

    architecture: str
    arguments: dict[str, Any]
    document: dict[str, Any]
    note: str


def timm_config(model: nn.Module, card: ModelCard, preprocess: Sequence[Any]) -> TimmConfig:
    """Returns what timm is told of a peer of timm's.

    Args:
        model: the peer, as timm has built it.
        card: its card.
        preprocess: the transforms of evaluation images, as sections of a recipe that leave nothing open.
    """
    architecture = card.model.removeprefix(FAMILY).partition(".")[0]  # behind the dot timm's name of weights, which are not these
    arguments = {**card.args, "num_classes": card.num_classes, "in_chans": card.in_channels}
    crop, note = _crop(read_preprocess(preprocess), card)
    own: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    pretrained = {
        "input_size": [card.in_channels, *card.image_size],
        "fixed_input_size": bool(own.get("fixed_input_size", False)),
        "interpolation": crop.pop("interpolation"),
        **crop,
        "mean": _per_channel(card.mean, card.in_channels),
        "std": _per_channel(card.std, card.in_channels),
        "num_classes": card.num_classes,
        "pool_size": None,
        **{key: own.get(key) for key in _HEAD},
    }
    document = {
        "architecture": architecture,
        "num_classes": card.num_classes,
        "num_features": getattr(model, "num_features", None),
        "label_names": list(card.class_names),
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }
    return TimmConfig(architecture, arguments, document, note)


def _per_channel(values: Sequence[float], channels: int) -> list[float]:
    return list(values) * (channels // len(values))


def _crop(steps: Sequence[Resize | CenterCrop], card: ModelCard) -> tuple[dict[str, Any], str]:
    """Returns timm's fields for the transforms `steps`, or the nearest and what differs: timm scales, and then cuts the middle."""
    exact = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": card.interpolation}
    size = card.image_size
    first, last = (steps[0], steps[-1]) if steps else (None, None)
    if not isinstance(first, Resize) or len(steps) > 2 or (len(steps) == 2 and not isinstance(last, CenterCrop)):
        return exact, f"timm brings images to {_sides(size)} at once; `preprocess` of the recipe is another way"
    scaled, cut = _pair(first.size), _pair(None if len(steps) == 1 else last.size if last else None)
    if first.mode == "exact" and scaled == size and cut in (None, size):
        return {**exact, "interpolation": first.interpolation}, ""
    is_square = size[0] == size[1]
    if cut == size and is_square and scaled is not None and scaled[0] == scaled[1]:
        mode = "squash" if first.mode == "exact" else "center"
        return {"crop_pct": _fraction(size[0], scaled[0]), "crop_mode": mode, "interpolation": first.interpolation}, ""
    return exact, f"timm brings images to {_sides(size)} at once; here they are scaled and cut otherwise before"


def _fraction(size: int, scaled: int) -> float:
    """Returns the crop_pct by which timm scales to `scaled`: it takes the whole part of size / crop_pct."""
    fraction = size / scaled
    return fraction if math.floor(size / fraction) == scaled else size / (scaled + 0.5)


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
