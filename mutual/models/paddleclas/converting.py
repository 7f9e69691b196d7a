"""converted_weights: a weights file of Paddle's as one of ours, with a card; and one of ours as one of Paddle's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from mutual.models.cards import ModelCard, check_trusted, read_card, weights_bytes
from mutual.models.checkpoints import AUTO, select_tensors
from mutual.models.classifier import classifier_paths
from mutual.models.files import weights_path
from mutual.models.loading import load_weights
from mutual.models.model_input import statistics_for
from mutual.models.paddleclas.layout import from_paddle, is_paddle, to_paddle
from mutual.models.paddleclas.pdparams import pdparams_bytes
from mutual.models.paddleclas.published import NUM_CLASSES, PUBLISHED_INPUT, imagenet_classes, model_called, published_name
from mutual.models.reading import read_tensors
from mutual.models.zoo import create_model
from mutual.recipe import InputError

OURS = ".safetensors"
_IN_FILE = ("num_classes", "in_channels")
"""Arguments of a model that its tensors say."""
_PREPROCESS: list[JsonValue] = [{"name": "resize", "size": 256, "mode": "shorter"}, {"name": "center_crop", "size": 224}]
"""How PaddleClas evaluates its models."""


def converted_weights(
    source: Path, target: Path, model: str, *, num_classes: int | None = None, prefix: str = AUTO, args: Mapping[str, Any] | None = None
) -> tuple[bytes, list[str]]:
    """Returns the contents of `target`, which are the weights in `source`, and lines for the user.

    Args:
        source: a weights file; one of the two is Paddle's (`.pdparams`), the other one ours.
        target: what is to be written, named with its suffix.
        model: whose weights they are, by our name or PaddleClas'.
        num_classes: its outputs; None: as many as in the file.
        prefix: what stands before the model's names in the file; auto: is found.
        args: arguments of the model; None: those of the card in the file, or none.

    Raises:
        InputError: the files are of other kinds, or the file does not hold this model; one line says what is wrong.
    """
    name = model_called(model)
    try:
        path = weights_path(source)
        if is_paddle(path) == is_paddle(target) or not (is_paddle(target) or target.suffix == OURS):
            raise ValueError(f"from {source.name} to {target.name}: give IN.pdparams OUT{OURS}, or IN{OURS} OUT.pdparams")
        if is_paddle(target) and published_name(name) is None:
            raise ValueError(f"PaddleClas has no model of the architecture of {name}")
        card = read_card(path)
        if card is not None and card.model != name:
            raise ValueError(f"{path} is of {card.model}, as its card says, not of {name}")
        if card is not None:
            check_trusted(path, card)
        arguments = _checked(args) if args is not None else {} if card is None else card.args
        arguments = {key: value for key, value in arguments.items() if key not in _IN_FILE}
        read = partial(_values_in, path, read_tensors(path), prefix=prefix)
        built = _fitting_model(name, num_classes, arguments, read)
        notes = load_weights(built, path, prefix=prefix).notes  # checks all of it
        state = {**built.state_dict(), **read(built)}
        if is_paddle(target):
            return pdparams_bytes(to_paddle(built, state)), list(notes)
        return weights_bytes(_kept_exact(state), _new_card(name, built, arguments)), list(notes)
    except ValueError as error:
        raise InputError(str(error)) from error


def _checked(args: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a model's arguments, which are the user's word.

    Raises:
        ValueError: there is one among them that the files say.
    """
    for key in args:
        if key in (*_IN_FILE, "weights") or key.startswith("pretrained"):
            raise ValueError(f"--args: {key} is none of the architecture's arguments; the weights are those in the file, as are its widths")
    return args


def _fitting_model(
    name: str, num_classes: int | None, args: Mapping[str, Any], read: Callable[[nn.Module], Mapping[str, Tensor]]
) -> nn.Module:
    """Returns the model with as many input channels and classes as the file has, whose tensors `read` returns for a model."""
    if ":" in name:
        raise ValueError(f"{name} is code of yours; give a model of the zoo")
    model = create_model(name, num_classes=NUM_CLASSES, **args)
    state = read(model)
    first = next((path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)), "")
    weight, logits = state.get(f"{first}.weight"), state.get(f"{classifier_paths(model)[-1]}.weight")
    expected = model.get_parameter(f"{classifier_paths(model)[-1]}.weight")
    in_channels = 1 if weight is not None and weight.shape[1:2] == (1,) else 3
    num_in_file = len(logits) if logits is not None and logits.shape[1:] == expected.shape[1:] else 0
    wanted = num_classes or num_in_file or NUM_CLASSES
    return model if (wanted, in_channels) == (NUM_CLASSES, 3) else create_model(name, num_classes=wanted, in_channels=in_channels, **args)


def _values_in(path: Path, groups: Mapping[str, Mapping[str, Tensor]], model: nn.Module, *, prefix: str) -> dict[str, Tensor]:
    """Returns a file's tensors for `model` with torch's names and values, not rounded to the model's precision."""
    try:
        tensors = select_tensors(groups, model.state_dict(), prefix=prefix).tensors
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return from_paddle(model, tensors) if is_paddle(path) else tensors


def _kept_exact(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors in float32, and those in float64 that are: what was scaled, which is brought back exactly from that alone."""
    return {
        name: tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor for name, tensor in state.items()
    }


def _new_card(name: str, model: nn.Module, args: Mapping[str, Any]) -> ModelCard:
    """Returns what is known: of 1,000 classes that they are ImageNet's, of others their numbers."""
    num_classes = len(model.get_parameter(f"{classifier_paths(model)[-1]}.weight"))
    in_channels = next(module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    return ModelCard(
        model=name,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=PUBLISHED_INPUT["size"],
        mean=statistics_for(PUBLISHED_INPUT["mean"], in_channels),
        std=statistics_for(PUBLISHED_INPUT["std"], in_channels),
        class_names=tuple(imagenet_classes() if num_classes == NUM_CLASSES else map(str, range(num_classes))),
        args=dict(args),
        interpolation=PUBLISHED_INPUT["interpolation"],
        preprocess=_PREPROCESS,
        loaded_channels=in_channels,
    )
