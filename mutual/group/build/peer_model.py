"""create_peer_model: a peer's bare model with its initial weights, what it reads, and which classes its outputs stand for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mutual.group.peers import freeze_parts
from mutual.models import (
    ClassMap,
    ModelCard,
    ModelInput,
    class_columns,
    classifier_tensors,
    create_model,
    declared_input,
    load_weights,
    match_indices,
    match_names,
    pretrained_classes,
    read_card,
    statistics_for,
    weights_path,
)
from mutual.recipe import PRETRAINED, Recipe, derive_seed, format_value, program_file


@dataclass(frozen=True)
class DataSpec:
    """What peers are built for.

    Attributes:
        num_classes: classes of the data.
        class_names: their names; empty where they have none.
        input: what a peer reads that has no input of its own: the data's size, channels and statistics.
        reads_pixels: False where the images that peers are given are normalised already; they then read them as they are.
    """

    num_classes: int
    class_names: tuple[str, ...]
    input: ModelInput
    reads_pixels: bool = True


@dataclass(frozen=True)
class PeerModel:
    """A peer's model before it is tapped.

    Attributes:
        model: with its initial weights.
        input: what it reads.
        classes: which of its outputs stand for classes of the data.
        notes: lines for the user.
    """

    model: nn.Module
    input: ModelInput
    classes: ClassMap
    notes: tuple[str, ...] = ()


def create_peer_model(recipe: Recipe, name: str, data: DataSpec) -> PeerModel:
    """Returns the model of peer `name`; its initial weights depend on the recipe's seed and on `name` alone.

    What `freeze` and `train_only` leave out of training is frozen.

    Raises:
        RecipeError: the model, its arguments, its weights, its input or its classes are wrong.
    """
    spec = recipe.peers[name]
    card = _card(recipe, name)
    num_classes = _num_outputs(recipe, name, card, data)
    in_channels = _in_channels(recipe, name, card, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "weights", name))
        pretrained = spec.weights if spec.weights == PRETRAINED else None
        try:
            model = create_model(spec.model, **{"num_classes": num_classes, "in_channels": in_channels, "weights": pretrained, **spec.args})
        except ValueError as error:
            raise recipe.error(f"peers.{name}.model", str(error)) from error
    _check_own_classifier(recipe, name, model)
    dropped = partial(classifier_tensors, spec.model, model, num_classes, **{"in_channels": in_channels, **spec.args})
    notes = [f"peers.{name}.weights: {note}" for note in _load_weights(recipe, name, model, card, data, dropped)]
    freeze_peer_parts(recipe, name, model)
    model_input = _input(recipe, name, model, card, data, in_channels)
    if spec.input == "auto" and model_input != data.input:
        notes.append(_note(name, model_input, data.input))
    return PeerModel(model, model_input, _classes(recipe, name, model, num_classes, card, data), tuple(notes))


def is_trained(recipe: Recipe, name: str) -> bool:
    """Returns True for a peer that is trained, here or by another job, which is frozen here as far as the recipe of this job says."""
    return not recipe.peers[name].frozen or name in recipe.exchange.reads


def freeze_peer_parts(recipe: Recipe, name: str, model: nn.Module) -> nn.Module:
    """Freezes what `freeze` and `train_only` of peer `name` leave out of its training; returns the model."""
    spec = recipe.peers[name]
    try:
        freeze_parts(model, train_only=spec.train_only, freeze=spec.freeze)
    except ValueError as error:
        raise recipe.error(f"peers.{name}.{'train_only' if spec.train_only else 'freeze'}", f"{spec.model}: {error}") from error
    return model


def _load_weights(
    recipe: Recipe, name: str, model: nn.Module, card: ModelCard | None, data: DataSpec, dropped: Callable[[], Collection[str]]
) -> tuple[str, ...]:
    """Loads the weights file of peer `name`, if it has one; returns lines for the user.

    `dropped` returns the names of the file's tensors that may be left out.
    """
    spec = recipe.peers[name]
    source = spec.weights_file
    if source is None:
        return ()
    other_classes = (
        source.head == "new" and card is not None and bool(data.class_names) and not _same_classes(card.class_names, data.class_names)
    )
    try:
        path = weights_path(source.file)
        loaded = load_weights(model, path, prefix=source.prefix, head=source.head, other_classes=other_classes, dropped=dropped)
    except ValueError as error:
        raise recipe.error(f"peers.{name}.weights", str(error)) from error
    if loaded.initial and not is_trained(recipe, name):
        raise recipe.error(f"peers.{name}.weights.head", "a frozen peer would teach with a classifier that nothing has trained; set keep")
    return loaded.notes


def _same_classes(first: Sequence[str], second: Sequence[str]) -> bool:
    try:
        return class_columns(first, second) is None
    except ValueError:
        return False


def _note(name: str, model_input: ModelInput, data_input: ModelInput) -> str:
    """Returns a line that says how a peer's input, of which the recipe says nothing, differs from the data's."""
    own, datas = asdict(model_input), asdict(data_input)
    if own["size"] == datas["size"]:
        del own["interpolation"]
    differing = {key: format_value(list(value) if isinstance(value, tuple) else value) for key, value in own.items() if value != datas[key]}
    described = ", ".join(f"{key} {value}" for key, value in differing.items())
    return f"peers.{name}.input: {described}, as its model and weights say; not the data's"


def _card(recipe: Recipe, name: str) -> ModelCard | None:
    """Returns the card of a peer's weights file, or of the program that it is; None where there is none."""
    spec = recipe.peers[name]
    key, file = f"peers.{name}.model", program_file(spec.model)
    if spec.weights_file is not None:
        key, file = f"peers.{name}.weights", spec.weights_file.file
    if file is None:
        return None
    try:
        return read_card(weights_path(file))
    except ValueError as error:
        raise recipe.error(key, str(error)) from error


def _num_outputs(recipe: Recipe, name: str, card: ModelCard | None, data: DataSpec) -> int | None:
    """Returns with how many outputs a peer's model is built; None: with those of the zoo's own weights."""
    spec = recipe.peers[name]
    if spec.head == "none":
        return 0
    if is_trained(recipe, name):
        return data.num_classes
    names = _given_names(recipe, name)
    if names is not None and card is not None and len(names) != card.num_classes:
        raise recipe.error(f"peers.{name}.classes", f"{len(names)} names for the model's {card.num_classes} outputs; give one for each")
    if names is not None and spec.weights != PRETRAINED:
        return len(names)
    if card is not None:
        return card.num_classes
    return None if spec.weights == PRETRAINED else data.num_classes


def _check_own_classifier(recipe: Recipe, name: str, model: nn.Module) -> None:
    """Refuses a frozen peer with the zoo's weights and a classifier of another width, which nothing would have trained."""
    spec = recipe.peers[name]
    if not spec.frozen or spec.weights != PRETRAINED or spec.head == "none":
        return
    config = getattr(model, "pretrained_cfg", None)
    own = config.get("num_classes") if isinstance(config, dict) else len(pretrained_classes(spec.model) or ())
    asked, names = spec.args.get("num_classes", own), _given_names(recipe, name)
    if own and asked != own:
        raise recipe.error(
            f"peers.{name}.args.num_classes",
            f"the pretrained classifier has {own} outputs, and a frozen peer would teach with one of {asked} that nothing has trained; "
            "take this away, `classes` says which outputs are the data's",
        )
    if own and names is not None and len(names) != own:
        raise recipe.error(f"peers.{name}.classes", f"{len(names)} names for the model's {own} outputs; give one for each, or indices")


def _in_channels(recipe: Recipe, name: str, card: ModelCard | None, data: DataSpec) -> int:
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


def _input(recipe: Recipe, name: str, model: nn.Module, card: ModelCard | None, data: DataSpec, in_channels: int) -> ModelInput:
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
    if is_trained(recipe, name) and not _takes_one_size(model):
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


def _classes(recipe: Recipe, name: str, model: nn.Module, num_built: int | None, card: ModelCard | None, data: DataSpec) -> ClassMap:
    """Returns which outputs stand for which classes of the data; `num_built`: how many the model was asked to have, None: the zoo's."""
    spec, given = recipe.peers[name], recipe.peers[name].classes
    if not data.class_names or spec.head == "none":
        return ClassMap()
    program = program_file(spec.model)
    where = "classes" if given != "auto" else "weights" if program is None else "model"
    file = program or (spec.weights_file.file if spec.weights_file is not None else spec.weights)
    try:
        if is_trained(recipe, name):
            has_new_head = spec.weights_file is not None and spec.weights_file.head == "new"
            columns = None if card is None or has_new_head else class_columns(card.class_names, data.class_names)
        elif isinstance(given, list) and not isinstance(given[0], str):
            num_asked = None if program is not None and card is None else num_built  # a program has the outputs that it has
            num_outputs: Any = spec.args.get("num_classes") or num_asked or getattr(model, "num_classes", None) or 1000
            return match_indices(given, int(num_outputs), data.num_classes)
        else:
            names = _names(recipe, name, card)
            return ClassMap() if names is None else match_names(names, data.class_names)
    except ValueError as error:
        raise recipe.error(f"peers.{name}.{where}", str(error) if where == "classes" else f"{file}: {error}") from error
    if columns is not None:
        raise recipe.error(f"peers.{name}.weights", f"{file} has the data's classes in another order, which only a frozen peer can have")
    return ClassMap()


def _given_names(recipe: Recipe, name: str) -> list[str] | None:
    """Returns the names of classes that the recipe gives, itself or by a file with a name a line; None where it gives none."""
    given = recipe.peers[name].classes
    if isinstance(given, list):
        names = [entry for entry in given if isinstance(entry, str)]
        return names if len(names) == len(given) else None
    if given == "auto":
        return None
    try:
        names = [line.strip() for line in Path(given).read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, ValueError) as error:  # a path may hold a character that no file's name has
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise recipe.error(f"peers.{name}.classes", f"{given} cannot be read ({reason}); give a text file with a class a line") from error
    if len(names) < 2:
        raise recipe.error(f"peers.{name}.classes", f"{given} has {len(names)} lines; give a text file with a class a line")
    return names


def _names(recipe: Recipe, name: str, card: ModelCard | None) -> Sequence[str | Sequence[str]] | None:
    """Returns the classes of a frozen peer's outputs, or None where nothing says them."""
    spec = recipe.peers[name]
    given = _given_names(recipe, name)
    if given is not None:
        return given
    if card is not None:
        return card.class_names
    return pretrained_classes(spec.model) if spec.weights == PRETRAINED else None
