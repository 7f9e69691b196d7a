"""ModelInput: what a model was made to read, and how pixels become it.

Shapes: B images, C channels, H and W their height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from mutual.models.paddleclas.published import PUBLISHED_INPUT, published_name
from mutual.recipe.peers import InputSpec
from mutual.recipe.transforms import Interpolation

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale
INTERPOLATIONS = {"nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic"}


@dataclass(frozen=True)
class ModelInput:
    """What a model reads; called on pixels, it returns that.

    Attributes:
        size: height and width in pixels.
        mean: mean of each channel, or of all, of pixel values in 0 .. 1; it is subtracted.
        std: standard deviation likewise, by which is divided.
        interpolation: nearest, bilinear or bicubic, where images of another size are brought to `size`; antialiased.
        channels: 1 grey, 3 colour (red, green, blue).

    Example:
        >>> model_input = ModelInput((4, 4), mean=(0.5,), std=(0.5,), channels=3)
        >>> model_input(torch.full((2, 1, 8, 8), 255, dtype=torch.uint8))[0, :, 0, 0]
        tensor([1., 1., 1.])
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    channels: int = 3

    def __call__(self, pixels: Tensor) -> Tensor:
        """Returns float32 `[B, channels, *size]` of `pixels` `[B, C, H, W]`: uint8, or floats in 0 .. 255 where images are mixed."""
        return normalize(self.resize(pixels), self.mean, self.std)

    def resize(self, pixels: Tensor) -> Tensor:
        """Returns pixels in 0 .. 255 with the channels and the size of this input; of both already, they are returned as they are."""
        pixels = _to_channels(pixels, self.channels)
        if pixels.shape[-2:] == self.size:
            return pixels
        mode = INTERPOLATIONS[self.interpolation]
        resized = F.interpolate(pixels.float(), self.size, mode=mode, antialias=self.interpolation != "nearest")
        return resized.clamp(0, 255)  # bicubic interpolation overshoots

    def replaced(self, fields: Mapping[str, Any]) -> ModelInput:
        """Returns this input with other values of some attributes.

        Raises:
            ValueError: mean or std are not one for each channel, or one for all; the first word is the attribute.
        """
        changed = replace(self, **fields)
        for key in ("mean", "std"):
            if key in fields and len(fields[key]) not in (1, changed.channels):
                raise ValueError(f"{key}: {len(fields[key])} values for a peer that reads {changed.channels} channels")
        return changed

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ModelInput:
        """Returns the input of which `fields` are the attributes, with lists in place of tuples."""
        known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        return cls(**known)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, `(channels, height, width)`."""
        return self.channels, *self.size


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns pixels in 0 .. 255, `[..., C, H, W]`, as float32 in 0 .. 1, minus `mean`, divided by `std`."""
    return (pixels.float() / 255 - _by_channel(tuple(mean), pixels.device)) / _by_channel(tuple(std), pixels.device)


@lru_cache  # so that no step copies them to the device again
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def _to_channels(pixels: Tensor, channels: int) -> Tensor:
    """Returns the pixels with 1 or 3 channels: grey is repeated, colour is weighted to luma."""
    if pixels.shape[-3] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])
    red, green, blue = pixels.float().unbind(dim=-3)
    luma = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(-3)
    return luma if pixels.is_floating_point() else luma.to(pixels.dtype)  # cut off, not rounded, as torchvision does


def statistics_for(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Returns means or deviations for `channels` channels: those of grey are repeated, those of colour are weighted to luma."""
    if len(values) in (1, channels):
        return tuple(values) * (channels // len(values))
    return (sum(weight * value for weight, value in zip((0.299, 0.587, 0.114), values, strict=True)),)


def declared_input(name: str, model: nn.Module, args: Mapping[str, Any], *, pretrained: bool, with_weights: bool) -> dict[str, Any]:
    """Returns those fields of a ModelInput that a model says of itself; none where it says nothing.

    The model of a factory says it by an attribute `input`, a mapping. Weights that come with timm, torchvision or PaddleClas were trained
    for what the library records of them; without weights a model of the zoo takes what it is given.

    Args:
        name: the model's name in a recipe.
        model: the model.
        args: the arguments of its factory.
        pretrained: it has the zoo's own weights.
        with_weights: it has weights, the zoo's or of a file.

    Raises:
        ValueError: the attribute names other fields or values; one line says which.
    """
    own = getattr(model, "input", None)
    if isinstance(own, Mapping):
        return _checked(name, own)
    if published_name(name) is not None:
        return dict(PUBLISHED_INPUT) if pretrained else {}
    family, _, rest = name.partition("/")
    if family == "timm" and with_weights:
        return _of_timm(model, args)
    if family == "torchvision" and pretrained:
        return _of_torchvision(rest)
    return {}


def _checked(name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}
    try:
        spec = InputSpec.model_validate(plain)
        for values in (spec.mean, spec.std):
            if values is not None and len(values) not in (1, spec.channels or 3):
                raise ValueError(f"{len(values)} statistics for {spec.channels or 3} channels")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc'][:1]))}: {first['msg']}"
        raise ValueError(f"the attribute `input` of {name} is no description of an input ({reason})") from error
    except ValueError as error:
        raise ValueError(f"the attribute `input` of {name} is no description of an input ({error})") from error
    return spec.given


def _of_timm(model: nn.Module, args: Mapping[str, Any]) -> dict[str, Any]:
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model)
    size = list(config["input_size"][1:])  # the channels are those that the model was built with
    asked = args.get("img_size")
    if asked is not None:
        size = [asked, asked] if isinstance(asked, int) else list(asked)
    interpolation = config["interpolation"] if config["interpolation"] in INTERPOLATIONS else "bicubic"
    return {
        "size": (size[0], size[1]),
        "mean": tuple(map(float, config["mean"])),
        "std": tuple(map(float, config["std"])),
        "interpolation": interpolation,
    }


def _of_torchvision(name: str) -> dict[str, Any]:
    import torchvision.models

    preset: Any = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    (side,) = preset.crop_size
    mode = preset.interpolation.value
    return {
        "size": (side, side),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "interpolation": mode if mode in INTERPOLATIONS else "bilinear",
    }
