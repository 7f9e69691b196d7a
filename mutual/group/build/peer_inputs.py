"""The input of a peer: what the recipe says, else what its weights or its model say, else what the data are."""

from __future__ import annotations

from dataclasses import asdict, replace

from torch import nn

from mutual.group.build.data_spec import DataSpec
from mutual.models import ModelCard, ModelInput, declared_input, statistics_for
from mutual.recipe import PRETRAINED, Recipe, format_value


def channels_of(recipe: Recipe, name: str, card: ModelCard | None, data: DataSpec) -> int:
    """Returns the channels of the images that a peer's model is built for."""
    spec = recipe.peers[name]
    if spec.input != "auto" and spec.input.channels is not None:
        if card is not None and card.in_channels != spec.input.channels:
            raise recipe.error(
                f"peers.{name}.input.channels",
                f"{spec.input.channels} for a model of {card.in_channels} channels ({spec.weights}); leave it out: images are brought to "
                "the model's channels",
            )
        return spec.input.channels
    if not data.reads_pixels:
        return data.input.channels
    if card is not None:
        return card.in_channels
    return 3 if spec.weights == PRETRAINED else data.input.channels


def input_of(recipe: Recipe, name: str, model: nn.Module, card: ModelCard | None, data: DataSpec, in_channels: int) -> ModelInput:
    """Returns what a peer reads: what the recipe says, else what its weights or its model say, else what the data are."""
    spec, given = recipe.peers[name], recipe.peers[name].input
    if not data.reads_pixels:
        return data.input
    has_weights = spec.weights is not None
    try:
        declared = declared_input(spec.model, model, spec.args, pretrained=spec.weights == PRETRAINED, with_weights=has_weights)
    except ValueError as error:
        raise recipe.error(f"peers.{name}.model", str(error)) from error
    if card is not None:
        declared = {"size": card.image_size, "mean": card.mean, "std": card.std, "interpolation": card.interpolation}
    if recipe.is_trained(name) and not _takes_one_size(model):
        declared.pop("size", None)  # it is trained for the data's
    fields = {} if given == "auto" else given.given
    channels = fields.get("channels", declared.get("channels", in_channels))
    statistics = {key: statistics_for(declared.get(key, getattr(data.input, key)), channels) for key in ("mean", "std")}
    try:
        return replace(data.input, **{**declared, **statistics, "channels": channels}).replaced(fields)
    except ValueError as error:
        key, _, message = str(error).partition(": ")
        raise recipe.error(f"peers.{name}.input.{key}", message) from error


def _takes_one_size(model: nn.Module) -> bool:
    config = getattr(model, "pretrained_cfg", None)
    return isinstance(config, dict) and bool(config.get("fixed_input_size"))


def describe_input(name: str, model_input: ModelInput, data_input: ModelInput) -> str:
    """Returns a line that says how a peer's input, of which the recipe says nothing, differs from the data's."""
    own, datas = asdict(model_input), asdict(data_input)
    if own["size"] == datas["size"]:
        del own["interpolation"]
    differing = {key: format_value(list(value) if isinstance(value, tuple) else value) for key, value in own.items() if value != datas[key]}
    described = ", ".join(f"{key} {value}" for key, value in differing.items())
    return f"peers.{name}.input: {described}, as its model and weights say; not the data's"
