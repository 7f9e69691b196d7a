"""create_model: a classifier by its name, ours, torchvision's, timm's or the user's own."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from mutual.models.loading import load_weights
from mutual.models.one import One
from mutual.models.pplcnet import PPLCNETS
from mutual.models.small_cnn import SmallCNN
from mutual.models.tutorials import TUTORIAL_MODELS
from mutual.recipe import did_you_mean

Factory = Callable[..., nn.Module]

MODELS: dict[str, Factory] = {**PPLCNETS, "small_cnn": SmallCNN, "one": One, **TUTORIAL_MODELS}
PRETRAINED = "pretrained"
_AUXILIARY_HEADS = ("googlenet", "inception_v3")  # in training mode they would answer with a tuple


def create_model(name: str, *, num_classes: int, in_channels: int = 3, weights: str | None = None, **args: Any) -> nn.Module:
    """Returns the model called `name`: images `[B, in_channels, H, W]` to logits `[B, num_classes]`.

    Args:
        name: `pplcnet_x1_0` (ours), `torchvision/resnet18`, `timm/convnext_tiny` or `package.module:factory`, which is called
            as `factory(num_classes=.., in_channels=.., **args)`.
        num_classes: C.
        in_channels: 1 grey, 3 colour.
        weights: None for initial weights, `pretrained` for the zoo's own where it has some, or the path of a weights file.
        args: further arguments of the model's factory.

    Raises:
        ValueError: no such model, an argument that it does not take, or weights that do not fit; one line says which.
    """
    pretrained = weights == PRETRAINED
    family, _, rest = name.partition("/")
    if family == "torchvision" and rest:
        model = _from_torchvision(rest, num_classes=num_classes, in_channels=in_channels, pretrained=pretrained, **args)
    elif family == "timm" and rest:
        model = _from_timm(rest, num_classes=num_classes, in_channels=in_channels, pretrained=pretrained, **args)
    else:
        factory = _users_factory(name) if ":" in name else _ours(name)
        if pretrained:
            raise ValueError(f"{name} has no pretrained weights; give the path of a weights file")
        model = _build(name, factory, num_classes=num_classes, in_channels=in_channels, **args)
    if weights is not None and not pretrained:
        load_weights(model, weights)
    return _without_inplace(model)


def _ours(name: str) -> Factory:
    if name in MODELS:
        return MODELS[name]
    known = [*MODELS, *(f"torchvision/{each}" for each in _torchvision_names()), *(f"timm/{each}" for each in timm.list_models())]
    raise ValueError(f"{name!r} is no model{did_you_mean(name, MODELS if name.startswith('pplc') else known)}")


def _from_timm(name: str, *, num_classes: int, in_channels: int, pretrained: bool, **args: Any) -> nn.Module:
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models())
        raise ValueError(f"'timm/{name}' is no model of timm{near}")

    def factory(**arguments: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
        return model

    return _build(f"timm/{name}", factory, num_classes=num_classes, in_chans=in_channels, **args)


def _from_torchvision(name: str, *, num_classes: int, in_channels: int, pretrained: bool, **args: Any) -> nn.Module:
    if name not in _torchvision_names():
        raise ValueError(f"'torchvision/{name}' is no classifier of torchvision{did_you_mean(name, _torchvision_names())}")
    if name in _AUXILIARY_HEADS:
        args = {"aux_logits": False, "init_weights": True, **args}
    factory = torchvision.models.get_model_builder(name)
    model = _build(f"torchvision/{name}", factory, num_classes=num_classes, **args)
    if pretrained:
        state = torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
        fitting = {key: value for key, value in state.items() if key in model.state_dict() and model.state_dict()[key].shape == value.shape}
        model.load_state_dict(fitting, strict=False)
    if in_channels != 3:
        _adapt_first_convolution(f"torchvision/{name}", model, in_channels)
    return model


def _torchvision_names() -> list[str]:
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _adapt_first_convolution(name: str, model: nn.Module, in_channels: int) -> None:
    """Gives the first convolution `in_channels` inputs; its weights are the mean over the old inputs, scaled to keep the output's size."""
    path, old = next(((path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d)), ("", None))
    if old is None or old.in_channels != 3:
        raise ValueError(f"{name} takes 3 channels only; set data.channels: 3")
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.sum(dim=1, keepdim=True).expand_as(new.weight) / in_channels)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def _users_factory(name: str) -> Factory:
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # `accelerate launch -m` does not put it there for every launcher
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{name!r}: cannot import {module_name!r} ({error}); run from the folder that holds it, or install it") from error
    factory = vars(module).get(attribute)
    if not callable(factory):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{name!r}: {module_name} has no factory {attribute!r}{did_you_mean(attribute, functions)}")
    chosen: Factory = factory
    return chosen


def _build(name: str, factory: Factory, **arguments: Any) -> nn.Module:
    signature = inspect.signature(factory)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        for argument in arguments:
            if argument not in signature.parameters:
                raise ValueError(f"{name} takes no argument {argument!r}{did_you_mean(argument, signature.parameters)}")
    try:
        model = factory(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name} cannot be built with {_shown(arguments)}: {reason}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} gave a {type(model).__name__}, not a torch.nn.Module")
    if any(isinstance(tensor, UninitializedBuffer | UninitializedParameter) for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(f"{name} has lazy modules, whose weights have no shape yet; give their sizes")
    return model


def _shown(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def _without_inplace(model: nn.Module) -> nn.Module:
    """Turns in-place activations off: they would overwrite the outputs that taps keep."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return model
